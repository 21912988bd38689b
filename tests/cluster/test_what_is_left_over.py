"""What the soak counts as left over of a run: all that Ray runs, but what is the cluster's."""

from types import SimpleNamespace

import pytest
from soak import left_over


class PlayedHost:
    """Its processes, by their command lines."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    def processes(self, name: str) -> list[int]:
        return [number for number, line in enumerate(self.lines) if name in line]


OF_RAY = (
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
    "ray::IDLE",
    "ray::IDLE_SpillWorker",
    "ray::_AutoscalingCoordinatorActor",
    "/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/ray/session",
)


@pytest.mark.parametrize(
    "line",
    [
        "ray::RayTrainWorker.run",
        "ray::TrainController",
        "ray::PlacementGroupCleaner",
        "ray::JobQueue.news",
        "ray::JobSupervisor",
        "/venv/bin/python -m orchestrator run digits",
        "/venv/bin/python -m orchestrator.runtime.cluster_leftovers 02000000",
    ],
)
def test_whatever_of_a_run_is_still_there_is_named_with_its_host(line):
    hosts = {"head": PlayedHost(*OF_RAY), "worker": PlayedHost(*OF_RAY, line)}
    (found,) = left_over(SimpleNamespace(hosts=hosts))
    assert found.endswith(" on worker")


def test_what_is_the_clusters_is_not_counted():
    assert left_over(SimpleNamespace(hosts={"head": PlayedHost(*OF_RAY)})) == []
