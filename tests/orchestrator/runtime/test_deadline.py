"""A call that does not return is given up; what it returns or raises in time is passed on."""

import threading

import pytest

from orchestrator.runtime.deadline import within


def fail(error):
    raise error


def test_a_result_in_time_is_returned():
    assert within(60, lambda: "answer") == "answer"


@pytest.mark.parametrize("error", [TimeoutError("its own"), ValueError("no"), KeyboardInterrupt()])
def test_what_it_raises_is_raised(error):
    with pytest.raises(type(error)) as raised:
        within(60, lambda: fail(error))
    assert raised.value is error


def test_a_call_that_does_not_return_is_given_up():
    forever = threading.Event()
    with pytest.raises(ConnectionError, match=r"no answer within 0\.1 s"):
        within(0.1, forever.wait)
    forever.set()
