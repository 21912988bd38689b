"""Messages of libraries are shown as they are, whatever they look like."""

from orchestrator.view import View


def test_a_message_that_looks_like_markup_is_shown_as_it_is(capsys):
    view = View.open("title", [], "ray.log")
    view.warn("Connection closed by peer [/third_party/gloo/pair.cc:545] [bold]")
    view.close()
    assert "[/third_party/gloo/pair.cc:545] [bold]" in capsys.readouterr().err
