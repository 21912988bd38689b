"""Which faults a CI run has: always the core, and by turns the others."""

import pytest
from times import by_turns, chosen

CORE, OTHERS = ["unharmed", "killed"], [f"fault {number}" for number in range(11)]


def test_without_a_wish_all_run():
    assert chosen("all", CORE, OTHERS, "abc") == {*CORE, *OTHERS}


@pytest.mark.parametrize(("faults", "more"), [("core", 0), ("core+3", 3), ("core+99", 11)])
def test_the_core_runs_always_with_so_many_others(faults, more):
    found = chosen(faults, CORE, OTHERS, "abc")
    assert found >= set(CORE)
    assert len(found) == len(CORE) + more


@pytest.mark.parametrize("faults", ["", "some", "core+", "core+x", "core-3"])
def test_another_wish_is_refused(faults):
    with pytest.raises(pytest.UsageError, match="give all, core, or"):
        chosen(faults, CORE, OTHERS, "abc")


def test_the_same_commit_chooses_the_same_others_and_in_a_few_commits_each_has_had_its_turn():
    assert by_turns(OTHERS, 3, "abc") == by_turns(reversed(OTHERS), 3, "abc")
    runs = [by_turns(OTHERS, 3, f"commit {number}") for number in range(20)]
    assert set().union(*runs) == set(OTHERS)
