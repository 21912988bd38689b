import asyncio

import pytest

from ekd_train.workers.sign import Heart, Sign
from orchestrator.runtime.event import Advanced, Failed, Restarted, Started, Validated, Warned
from orchestrator.runtime.job_queue import JobQueue, JobQueueClient, QueueLost


def jobs_of(answers) -> list:
    return [answer if isinstance(answer, str) else answer.job for answer in answers]


class Job(str):
    """A job that is its name."""

    __slots__ = ()

    @property
    def name(self):
        return str(self)


def run(steps):
    """Run a scenario against a job_queue of its own."""
    return asyncio.run(steps(JobQueue()))


def test_jobs_are_handed_out_first_come_first_served():
    async def steps(jobs):
        await jobs.add(["a", "b"])
        return jobs_of([await jobs.next(0, None), await jobs.next(1, None)])

    assert run(steps) == ["a", "b"]


def test_all_workers_of_a_worker_group_get_the_same_job_however_often_they_ask():
    async def steps(jobs):
        await jobs.add(["a", "b"])
        first = await jobs.next(0, None)
        same = await jobs.next(0, None)
        second = await jobs.next(0, first.serial)
        late = await jobs.next(0, first.serial)
        return jobs_of([first, same, second, late])

    assert run(steps) == ["a", "a", "b", "b"]


def test_a_worker_group_without_a_job_waits_until_there_is_one():
    async def steps(jobs):
        asked = asyncio.create_task(jobs.next(0, None))
        await asyncio.sleep(0)
        assert not asked.done()
        await jobs.add(["a"])
        return jobs_of([await asked])

    assert run(steps) == ["a"]


def test_a_worker_group_is_told_to_ask_again_when_it_has_waited_long_enough():
    assert run(lambda jobs: jobs.next(0, None, timeout_s=0.01)) == "wait"


def test_after_the_last_job_worker_groups_stop():
    async def steps(jobs):
        await jobs.add(["a"])
        await jobs.close()
        work = await jobs.next(0, None)
        return [work.job, await jobs.next(0, work.serial), await jobs.next(1, None)]

    assert run(steps) == ["a", "stop", "stop"]


def test_a_group_that_was_started_again_gets_what_was_left_unfinished_and_in_order():
    async def steps(jobs):
        await jobs.add([Job(name) for name in "abcd"])
        a, _, _ = [await jobs.next(group, None) for group in range(3)]
        assert (await jobs.next(0, a.serial)).job == "d"
        await jobs.begin()  # with one group fewer
        return jobs_of([await jobs.next(0, None), await jobs.next(1, None)])

    assert run(steps) == ["b", "c"]


def test_every_run_whose_workers_are_started_again_is_told_of_once():
    """Whoever misses the lost worker says so, if it is not ended before; nobody is to depend on that race."""

    async def steps(jobs):
        await jobs.add([Job("a"), Job("b"), Job("c")])
        a, _ = [await jobs.next(group, None) for group in range(2)]
        await jobs.next(0, a.serial)
        await jobs.report(lost)
        await jobs.begin()
        told = await jobs.drain()
        for group in range(2):
            await jobs.next(group, None)
        await jobs.begin()
        return told, await jobs.drain()

    lost = Failed(run="b", group=1, failure="transient", out_of_memory=False, error="OSError", message="gone")
    first, second = run(steps)
    assert first == [lost, Restarted(run="c", group=0)]
    assert second == [Restarted(run="b", group=0), Restarted(run="c", group=1)]


def test_a_cancelled_group_gets_no_more_jobs_even_if_it_is_started_again():
    async def steps(jobs):
        await jobs.add(["a", "b"])
        await jobs.next(0, None)
        await jobs.cancel()
        await jobs.begin()
        return [await jobs.next(0, None), await jobs.next(1, None)]

    assert run(steps) == ["stop", "stop"]


def test_events_are_drained_in_order_and_once():
    async def steps(jobs):
        for event in events:
            await jobs.report(event)
        return await jobs.drain(), await jobs.drain(timeout_s=0.01)

    events = [Started(run="a", epoch=0), Warned(run="b", message="full"), Validated(run="a", record={})]
    assert run(steps) == (events, [])


def test_of_progress_only_the_latest_of_each_run_is_kept():
    async def steps(jobs):
        for step in range(3):
            for name in ("teacher-0", "control"):
                await jobs.report(Advanced(run=name, epoch=0, step=step, steps=3, loss=1.0, images_per_s=9.0))
        return [(e.run, e.step) for e in await jobs.drain()]

    assert run(steps) == [("teacher-0", 2), ("control", 2)]


def test_draining_waits_for_events():
    async def steps(jobs):
        waiting = asyncio.create_task(jobs.drain(timeout_s=30))
        await asyncio.sleep(0)
        await jobs.report(Started(run="control", epoch=0))
        return [e.run for e in await waiting]

    assert run(steps) == ["control"]


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_every_job_is_done_exactly_once(groups):
    async def group(jobs, number, done):
        finished = None
        while (work := await jobs.next(number, finished, timeout_s=1)) != "stop":
            await asyncio.sleep(0)
            done.append(work.job)
            finished = work.serial

    async def steps(jobs):
        done: list[int] = []
        await jobs.add(list(range(20)))
        await jobs.close()
        await asyncio.gather(*(group(jobs, number, done) for number in range(groups)))
        return sorted(done)

    assert run(steps) == list(range(20))


def test_a_job_that_is_queued_or_in_progress_is_not_queued_again():
    async def steps(jobs):
        await jobs.add(["a", "b"])
        a = await jobs.next(0, None)
        await jobs.add(["a", "b", "c"])
        await jobs.close()
        b = await jobs.next(0, a.serial)
        c = await jobs.next(0, b.serial)
        return [a.job, b.job, c.job, await jobs.next(0, c.serial)]

    assert run(steps) == ["a", "b", "c", "stop"]


def test_a_worker_that_began_with_another_queue_gets_no_job_of_this_one():
    async def steps(jobs):
        await jobs.add(["a"])
        with pytest.raises(QueueLost):
            await jobs.next(0, None, queue="of another process")
        return await jobs.next(0, None, queue=jobs.id)

    assert run(steps).job == "a"


def test_the_latest_sign_of_each_worker_is_news_until_the_pool_is_started_again():
    async def steps(jobs):
        for count in range(3):
            for rank in range(2):
                await jobs.sign(Sign(rank, "host", rank, count=count))
        before = await jobs.news(timeout_s=0.01)
        await jobs.begin()
        return before.signs, (await jobs.news(timeout_s=0.01)).signs

    before, after = run(steps)
    assert [(sign.rank, sign.count) for sign in before] == [(0, 2), (1, 2)]
    assert after == []


def test_a_worker_that_stops_as_soon_as_the_pool_has_started_is_known():
    """What it gave before is forgotten when the pool starts, and the next sign would be 5 s away."""
    jobs = JobQueue()
    heart = Heart(Sign(1, "host", 7), give=lambda sign: asyncio.run(jobs.sign(sign)))
    heart.beat()
    asyncio.run(jobs.begin())
    JobQueueClient(None, heart=heart).of(0)
    (sign,) = asyncio.run(jobs.news(timeout_s=0.01)).signs
    assert (sign.rank, sign.pid) == (1, 7)
