"""When a silence is said and when it is ended, by a clock that the test moves."""

import pytest

from ekd_train.workers.sign import Heart, Sign
from orchestrator.experiment.infrastructure import LivenessSettings
from orchestrator.runtime.liveness import Watch, verdict

SETTINGS = LivenessSettings()


@pytest.mark.parametrize(
    ("silent_s", "step_s", "expected"),
    [
        (0, 0, "well"),
        (29, 0.1, "well"),
        (31, 0.1, "silent"),
        (119, 0.1, "silent"),
        (121, 0.1, "lost"),
        (199, 10, "well"),  # 20 steps of 10 s
        (201, 10, "silent"),
        (599, 10, "silent"),
        (601, 10, "lost"),  # 60 steps
    ],
)
def test_a_silence_is_judged_by_seconds_and_by_steps_whichever_are_longer(silent_s, step_s, expected):
    assert verdict(silent_s, step_s, SETTINGS) == expected


class World:
    """Workers whose signs a test makes, and the watch over them."""

    def __init__(self, workers: int = 2) -> None:
        self.time = 0.0
        self.watch = Watch(SETTINGS, clock=lambda: self.time)
        self.signs = {
            rank: Sign(rank, "host", 100 + rank, run="student", step=1, step_s=0.1, first=rank == 0)
            for rank in range(workers)
        }
        self.said: list = []

    def pass_(self, seconds: float, *, living=(0, 1), working=(0, 1), look_every_s: float = 1.0) -> list:
        """What is found while these workers give signs, and these go on with their work."""
        found, end = [], self.time + seconds
        while self.time < end:
            self.time += look_every_s
            for rank, sign in self.signs.items():
                count = sign.count + (rank in living)
                step = sign.step + 1 if rank in working and sign.step is not None else sign.step
                self.signs[rank] = Sign(
                    rank, "host", sign.pid, None, count, sign.run, step, sign.step_s, sign.first
                )
            found += self.watch.look(self.signs.values())
        self.said += found
        return found


def test_nothing_is_said_of_workers_that_go_on():
    assert World().pass_(10_000) == []


def test_a_worker_that_is_not_heard_is_said_alone_though_the_other_waits_for_it_and_then_ended():
    world = World()
    world.pass_(5)
    first, *_, last = world.pass_(125, living=(0,), working=())
    assert (first.of.rank, first.lost) == (1, False)
    assert str(first) == "student: nothing heard of worker 1 (process 101 on host) for 31 s"
    assert (last.of.rank, last.lost) == (1, True)
    assert {silence.of.rank for silence in world.said} == {1}


def test_a_silence_is_said_again_every_minute_until_it_is_lost():
    world = World()
    world.pass_(5)
    said = world.pass_(115, living=(0,), working=())
    assert [round(silence.seconds) for silence in said] == [31, 91]


def test_a_worker_that_lives_and_takes_no_step_any_more_is_ended_too():
    world = World()
    world.pass_(5)
    said = world.pass_(125, working=())
    assert [silence.lost for silence in said[:3]] == [False, False, True]
    assert str(said[0]) == (
        "student: no step after step 6 from worker 0 (process 100 on host), which lives, for 31 s"
    )


def test_what_are_no_steps_has_an_allowance_of_its_own():
    world = World(1)
    world.signs[0] = Sign(0, "host", 100, run="student", step=None)
    world.pass_(5)
    assert world.pass_(590) == []
    assert {silence.lost for silence in world.pass_(6500)} == {False}
    assert any(silence.lost for silence in world.pass_(200))


def test_a_worker_without_a_job_is_silent_by_right_but_gives_signs():
    world = World(1)
    world.signs[0] = Sign(0, "host", 100)
    assert world.pass_(20_000) == []
    assert any(silence.lost for silence in world.pass_(130, living=()))


def test_a_driver_that_was_stopped_or_a_laptop_that_slept_takes_its_own_absence_for_nobodys_silence():
    world = World()
    world.pass_(5)
    assert world.pass_(36_000, living=(), working=(), look_every_s=36_000) == []
    assert world.pass_(60) == []


def test_a_worker_that_was_heard_again_is_well():
    world = World()
    world.pass_(5)
    assert world.pass_(100, living=(0,), working=())
    assert world.pass_(100) == []


def test_a_worker_that_ended_and_is_started_again_begins_anew():
    world = World()
    world.pass_(5)
    world.pass_(100, living=(), working=())
    world.signs = {rank: Sign(rank, "host", 200 + rank) for rank in range(2)}
    assert world.pass_(29, living=(), working=()) == []


def test_two_restarts_without_a_new_step_are_in_vain_and_a_new_step_counts_from_the_start():
    world = World()
    for run in ("student", "student", ""):  # the last: all runs
        world.pass_(5)
        assert [world.watch.in_vain(run) for _ in range(3)] == [False, False, True]
    world.pass_(5)
    assert not world.watch.in_vain("")


def test_a_step_is_as_long_as_the_longest_lately_and_a_validation_is_none():
    time = [0.0]
    heart = Heart(Sign(0, "host", 1), give=lambda sign: None, clock=lambda: time[0])
    heart.about("student", first=True)

    def step(number, seconds):
        time[0] += seconds
        heart.at(number)

    step(1, 50)  # with all that is done but once
    assert heart.sign.step_s == 0
    step(2, 3)
    step(3, 1)
    assert 2.9 < heart.sign.step_s <= 3
    heart.at(None)
    step(4, 100)
    assert heart.sign.step_s < 3
    for number in range(5, 500):
        step(number, 1)
    assert heart.sign.step_s == 1


def between_steps(world: World, step: int | None) -> None:
    """All workers have done `step`, or do what is no step."""
    for rank, sign in world.signs.items():
        world.signs[rank] = Sign(
            rank, "host", sign.pid, None, sign.count + 1, sign.run, step, sign.step_s, sign.first
        )


def test_what_takes_far_longer_than_ever_between_two_steps_is_said_and_then_ended():
    """A store that hangs while a checkpoint goes there: the worker gives signs of life all the time."""
    world = World()
    world.pass_(10)
    between_steps(world, None)
    assert world.pass_(4) == []  # the first validation
    between_steps(world, 20)
    world.pass_(10)
    between_steps(world, None)
    assert world.pass_(29) == []
    (said,) = world.pass_(5)
    assert str(said).startswith("student: nothing new from worker 0")
    assert not said.lost
    assert not [found for found in world.pass_(7100) if found.lost]
    assert [found for found in world.pass_(120) if found.lost]


def test_nobody_knows_how_long_the_first_step_takes():
    """Loading and compiling may take long, once."""
    world = World()
    between_steps(world, None)
    assert world.pass_(590) == []
    assert not [found for found in world.pass_(6500) if found.lost]


def test_nor_does_anybody_after_a_restart():
    """The process that took the lost one's place loads, and compiles, as that one did."""
    world = World()
    world.pass_(10)
    between_steps(world, None)
    world.pass_(4)
    between_steps(world, 20)
    world.pass_(10)
    for rank, sign in world.signs.items():
        world.signs[rank] = Sign(rank, "host", 900 + rank, None, 0, sign.run, None, sign.step_s, sign.first)
    assert world.pass_(590) == []


def test_a_validation_that_always_takes_long_is_waited_for():
    world = World()
    world.pass_(10)
    for step in (20, 40, 60):
        between_steps(world, None)
        found = world.pass_(500)
        assert not [silence for silence in found if silence.lost]
        between_steps(world, step)
        world.pass_(10)
    between_steps(world, None)
    assert world.pass_(500) == []  # five times 500 s would be longer than a twelfth of the limit
