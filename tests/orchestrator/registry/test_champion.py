"""The champion moves by one call, with a history, by hand and back."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.main import main
from orchestrator.registry.champion import (
    Move,
    NoSuchVersion,
    champion_of,
    champions,
    history,
    move_champion,
    roll_back,
)
from orchestrator.registry.listing import list_versions
from orchestrator.tracking.connection import connect


@pytest.fixture
def client(store_uri):
    return connect(store_uri)


@pytest.fixture
def model(client, request, tmp_path):
    """A model with three versions; the first is champion."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    client.create_registered_model(name)
    for number in (1, 2, 3):
        tags = {
            "ekd.run_id": f"run-{number}",
            "ekd.validation.accuracy": f"0.9{number}",
            "ekd.validation.nll": "0.2",
            "ekd.test.accuracy": "0.875",
            "ekd.test.nll": "0.4321",
            "ekd.test.ece": "0.0123",
            "ekd.macs": "5243000",
        }
        client.create_model_version(name, source=tmp_path.as_uri(), tags=tags)
    move_champion(client, name, "1", kind="registered", reason="the first champion")
    return name


def test_promoting_moves_the_alias_and_says_why(client, model):
    move = move_champion(client, model, "3", kind="promoted", reason="asked for by the  field team")
    assert str(move) == "version 1 -> version 3 (promoted): asked for by the field team"
    assert champion_of(client, model) == "3"
    tags = client.get_model_version(model, "3").tags
    assert tags["ekd.promotion"] == "champion: asked for by the field team"
    described = client.get_registered_model(model).description
    assert described.startswith("Champion: version 3: asked for by the field team. Before it: version 1.\n\n")
    replaced = client.get_model_version(model, "1").tags["ekd.promotion"]
    assert replaced == "replaced by version 3: asked for by the field team"


def test_rolling_back_goes_to_the_champion_before_and_again_one_further(client, model):
    for version in ("2", "3"):
        move_champion(client, model, version, kind="promoted", reason="better")
    assert roll_back(client, model, reason="it drifts").after == "2"
    assert roll_back(client, model, reason="so does this").after == "1"
    with pytest.raises(NoSuchVersion, match="no champion before version 1"):
        roll_back(client, model, reason="and this")
    assert [(m.before, m.after, m.kind) for m in history(client, model)] == [
        (None, "1", "registered"),
        ("1", "2", "promoted"),
        ("2", "3", "promoted"),
        ("3", "2", "rollback"),
        ("2", "1", "rollback"),
    ]


def test_what_is_said_at_a_rollback_is_said_of_the_version_that_was_rolled_back(client, model):
    move_champion(client, model, "2", kind="promoted", reason="better")
    roll_back(client, model, reason="wrong on sevens")
    restored = "restored, because version 2 was rolled back: wrong on sevens"
    assert client.get_model_version(model, "1").tags["ekd.promotion"] == f"champion: {restored}"
    assert client.get_registered_model(model).description.startswith(f"Champion: version 1: {restored}.")


def test_the_card_of_a_version_that_was_rolled_back_begins_with_it_until_it_is_champion_again(client, model):
    client.update_model_version(model, "2", description="The verdict.\n\n## Results")
    move_champion(client, model, "2", kind="promoted", reason="better")
    for reason in (
        "wrong on sevens",
        "wrong on sevens",
    ):  # the second writes what an interrupted first did not
        if champion_of(client, model) == "2":
            roll_back(client, model, reason=reason)
        else:
            move_champion(client, model, "1", kind="promoted", reason=reason)
    rolled_back = "Not to be used: rolled back to version 1: wrong on sevens\n\nThe verdict.\n\n## Results"
    assert client.get_model_version(model, "2").description == rolled_back
    move_champion(client, model, "2", kind="promoted", reason="the sevens were mislabelled")
    by_hand = "Champion by hand: the sevens were mislabelled\n\nThe verdict.\n\n## Results"
    assert client.get_model_version(model, "2").description == by_hand


def test_a_doubted_version_that_a_person_makes_champion_says_both_on_its_card(client, model):
    doubted = "Not to be used: worse than its own control. Test accuracy 90 %."
    client.update_model_version(model, "2", description=doubted)
    move_champion(client, model, "2", kind="promoted", reason="for the demo")
    said = f"Champion by hand: for the demo\n\nWhen it was registered: {doubted}"
    assert client.get_model_version(model, "2").description == said
    move_champion(client, model, "3", kind="registered", reason="better")
    assert client.get_model_version(model, "2").description == doubted


def test_a_rollback_is_called_one_in_the_tags_of_the_version_that_it_left(client, model):
    move_champion(client, model, "2", kind="promoted", reason="better")
    roll_back(client, model, reason="wrong on sevens")
    tags = client.get_model_version(model, "2").tags
    assert tags["ekd.promotion"] == "rolled back to version 1: wrong on sevens"


def test_what_was_found_of_a_version_outlives_what_people_decide(client, model):
    found = "challenger: worse than its own control"
    client.set_model_version_tag(model, "2", "ekd.promotion", found)
    for reason in ("for the demo", "for the demo"):  # the second writes what an interrupted first did not
        move_champion(client, model, "2", kind="promoted", reason=reason)
    why = client.get_model_version(model, "2").tags["ekd.promotion"]
    assert why == f"champion: for the demo (when registered, {found})"
    roll_back(client, model, reason="enough")
    assert client.get_model_version(model, "2").tags["ekd.promotion"].endswith(f"(when registered, {found})")


def test_a_host_whose_clock_is_an_hour_ahead_changes_no_order(client, model):
    move_champion(client, model, "2", kind="promoted", reason="better")
    noted = client.get_registered_model(model).tags["ekd.champion.history"]
    ahead = re.sub(r"T(\d\d):", lambda hour: f"T{(int(hour[1]) + 1) % 24:02}:", noted)
    client.set_registered_model_tag(model, "ekd.champion.history", ahead)
    move_champion(client, model, "3", kind="promoted", reason="better still")
    assert [roll_back(client, model, reason="back").after for _ in range(2)] == ["2", "1"]


def test_a_move_that_was_noted_but_never_made_is_passed_over(client, model, monkeypatch):
    move_champion(client, model, "2", kind="promoted", reason="better")

    def dies(*_):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", dies)
        with pytest.raises(ConnectionError):
            move_champion(client, model, "3", kind="promoted", reason="better still")
    assert champion_of(client, model) == "2"
    assert roll_back(client, model, reason="back").after == "1"


def test_rolling_back_goes_further_back_where_a_version_was_champion_twice(client, model):
    for version in ("2", "1", "3"):
        move_champion(client, model, version, kind="promoted", reason="asked for")
    assert [roll_back(client, model, reason="back").after for _ in range(3)] == ["1", "2", "1"]
    with pytest.raises(NoSuchVersion, match="no champion before version 1; `ekd promote` makes any"):
        roll_back(client, model, reason="and this")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["promote", "roll back", "noted, never moved"]), st.integers(1, 4)),
        max_size=30,
    )
)
def test_the_history_replays_as_a_stack(steps):
    stack, moves = ["1"], [Move(None, "1", "registered", "first")]
    for step, number in steps:
        version = str(number)
        if step == "roll back" and len(stack) > 1:
            moves.append(Move(stack.pop(), stack[-1], "rollback", "worse"))
        elif step != "roll back" and version != stack[-1]:
            moves.append(Move(stack[-1], version, "promoted", "better"))
            if step == "promote":
                stack.append(version)
        assert champions(moves, stack[-1]) == stack


@pytest.mark.parametrize("kind", ["promoted", "rollback"])
def test_a_history_whose_beginning_is_not_known_goes_back_as_far_as_it_is(kind):
    assert champions([Move("1", "2", kind, "better")], "2") == ["1", "2"]
    assert champions([Move("1", "2", kind, "better")], "7") == ["7"]


def test_promoting_the_champion_again_changes_nothing_and_says_so(client, model, store_uri, capsys):
    move_champion(client, model, "2", kind="promoted", reason="better")
    before = history(client, model), list_versions(client, model)
    assert main(["promote", f"models:/{model}/2", "--reason", "still", "--tracking", store_uri]) == 0
    assert capsys.readouterr().out == f"champion of {model}: version 2 is it already; nothing was changed\n"
    assert (history(client, model), list_versions(client, model)) == before


@pytest.mark.parametrize("left", range(3))
def test_what_an_interrupted_move_did_not_say_is_said_by_the_same_command(client, model, monkeypatch, left):
    """With `left` calls to come after the alias."""
    done = client.set_model_version_tag

    def dies(*arguments):
        nonlocal left
        if not left:
            raise ConnectionError
        left -= 1
        done(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(ConnectionError):
        patch.setattr(client, "set_model_version_tag", dies)
        move_champion(client, model, "2", kind="promoted", reason="the real one")
    move_champion(client, model, "2", kind="promoted", reason="again")
    why = {v.version: v.why for v in list_versions(client, model)}
    assert why == {"1": "replaced by version 2: the real one", "2": "champion: the real one", "3": ""}


def test_a_challenger_that_becomes_champion_is_no_challenger(client, model):
    client.set_registered_model_alias(model, "challenger", "2")
    move_champion(client, model, "2", kind="promoted", reason="better")
    assert {v.version: v.aliases for v in list_versions(client, model)} == {
        "1": (),
        "2": ("champion",),
        "3": (),
    }


@pytest.mark.parametrize(("name", "version"), [("nobody", "1"), (None, "99")])
def test_what_is_not_there_cannot_be_promoted(client, model, name, version):
    with pytest.raises(NoSuchVersion):
        move_champion(client, name or model, version, kind="promoted", reason="x")
    assert champion_of(client, model) == "1"


def test_a_reason_is_not_optional(client, model):
    with pytest.raises(ValueError, match="reason"):
        move_champion(client, model, "2", kind="promoted", reason="  ")
    assert champion_of(client, model) == "1"


def test_a_listing_shows_metrics_aliases_and_reasons_newest_first(client, model):
    listed = list_versions(client, model)
    assert [v.version for v in listed] == ["3", "2", "1"]
    assert listed[0].metrics["validation/accuracy"] == 0.93
    assert listed[0].aliases == ()
    assert listed[2].aliases == ("champion",)
    assert listed[2].why == "champion: the first champion"


def test_a_listing_fits_a_terminal_and_cuts_nothing(client, store_uri, tmp_path, capsys):
    name = "a-model-whose-name-" + "is-long-" * 10
    client.create_registered_model(name)
    client.create_model_version(name, source=tmp_path.as_uri(), tags={"ekd.run_id": "r" * 90})
    for alias in ("a-long-alias-for-the-shop", "another-one-for-the-field"):
        client.set_registered_model_alias(name, alias, "1")
    assert main(["models", name, "--tracking", store_uri]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"models:/{name}"
    assert f"models:/{name}/1 (run {'r' * 90})" in shown
    table = shown[1 : shown.index(f"models:/{name}/1 (run {'r' * 90})")]
    assert max(map(len, table)) <= 100
    assert "a-long-alias-for-the-shop,another-one-for-the-field" in "".join("".join(table).split())


def test_versions_of_others_are_not_listed(client, request):
    client.create_registered_model("somebody-elses")
    client.create_model_version("somebody-elses", source="file:///nowhere")
    assert "somebody-elses" not in {v.name for v in list_versions(client)}


def test_the_commands_list_promote_and_roll_back(client, model, store_uri, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["promote", f"models:/{model}/2", "--reason", "by hand", "--tracking", store_uri]) == 0
    assert capsys.readouterr().out == f"champion of {model}: version 1 -> version 2 (promoted): by hand\n"
    assert main(["models", model, "--tracking", store_uri]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"models:/{model}"
    assert [line.split() for line in shown[3:6]] == [
        ["3", "93.00", "0.2000", "87.50", "0.4321", "0.0123", "5.24", "M"],
        ["2", "champion", "92.00", "0.2000", "87.50", "0.4321", "0.0123", "5.24", "M"],
        ["1", "91.00", "0.2000", "87.50", "0.4321", "0.0123", "5.24", "M"],
    ]
    assert shown[-1].startswith("T: temperature of the distillation")
    assert shown[6:-1] == [
        f"models:/{model}/3 (run run-3)",
        f"models:/{model}/2 (run run-2) is champion: by hand",
        f"models:/{model}/1 (run run-1) was replaced by version 2: by hand",
        "",
    ]
    assert main(["rollback", model, "--reason", "no", "--tracking", store_uri]) == 0
    assert champion_of(client, model) == "1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "nobody"], "no version of nobody"),
        (["promote", "nobody/1", "--reason", "x"], "models:/NAME/VERSION"),
        (["promote", "models:/nobody/1", "--reason", "x"], "no registered model nobody"),
        (["rollback", "nobody", "--reason", "x"], "no registered model nobody"),
        (["rollback", "models:/nobody/1", "--reason", "x"], "is not the name of a registered student"),
        (["models", "x'y"], "is not the name of a registered student"),
        (["models", ""], "is not the name of a registered student"),
        (["promote", f"models:/nobody/{'9' * 400}", "--reason", "x"], "models:/NAME/VERSION"),
        (["export", "models:/nobody@champion", "--output", "x"], "no registered model nobody"),
        (["export", "models:/nobody/1", "--output", "x"], "no version 1 of nobody"),
        (["export", "models:/nobody/x", "--output", "x"], "models:/NAME@champion"),
        (["export", "models:/@", "--output", "x"], "models:/NAME@champion"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(client, store_uri, capsys, arguments, words):
    assert main([*arguments, "--tracking", store_uri]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_registry_that_is_not_there_is_not_created(tmp_path, capsys):
    assert main(["models", "--storage", str(tmp_path)]) == 2
    assert "no registry here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_status_1(capsys):
    assert main(["models", "--tracking", "http://127.0.0.1:9"]) == 1
    assert "cannot" in capsys.readouterr().err


def test_the_history_is_one_tag_to_which_a_move_adds_a_line(client, model):
    move_champion(client, model, "2", kind="promoted", reason="better")
    (kept,) = (text for key, text in client.get_registered_model(model).tags.items() if "champion" in key)
    first, second = kept.splitlines()
    assert first.endswith("Z version none -> version 1 (registered): the first champion")
    assert second.endswith("Z version 1 -> version 2 (promoted): better")


def test_moves_that_an_earlier_version_noted_in_tags_of_their_own_come_first(client, model):
    move_champion(client, model, "2", kind="promoted", reason="better")
    early = "version 3 -> version 1 (promoted): long ago"
    client.set_registered_model_tag(model, "ekd.champion.2025-01-01T00:00:00.000001Z", early)
    assert next(str(move) for move in history(client, model)) == early
    assert len(history(client, model)) == 3


def test_a_long_history_keeps_its_newest_moves_in_what_every_registry_keeps(client, model):
    for number in range(12):
        move_champion(client, model, str(2 + number % 2), kind="promoted", reason=f"{number} " + "x" * 990)
    (kept,) = (text for key, text in client.get_registered_model(model).tags.items() if "champion" in key)
    assert len(kept) <= 5000
    assert [move.reason[:2] for move in history(client, model)] == ["8 ", "9 ", "10", "11"]
