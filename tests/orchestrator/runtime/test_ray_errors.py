"""What a user is told to do when Ray does not start: by the cause, not the exception's class."""

import errno

import pytest
import ray.exceptions

from orchestrator.experiment.infrastructure import Cluster
from orchestrator.runtime import address, ray_session
from orchestrator.runtime.ray_errors import ASK_THE_DOCTOR, MEANINGS, advice, remedy_in
from orchestrator.runtime.ray_session import LaunchError, start_ray
from orchestrator.runtime.retry import failure_kind


def caused_by(cause: Exception) -> Exception:
    error = RuntimeError("the node did not start")
    error.__cause__ = cause
    return error


DENIED = PermissionError(errno.EACCES, "Permission denied", "/opt/python/bin/python3")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/home/a/.ray/auth_token"),
            "set HOME to a folder",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/home/a/.ray"), "set HOME to a folder"),
        (DENIED, "let this user use /opt/python/bin/python3, and every folder above it"),
        (caused_by(DENIED), "let this user use /opt/python/bin/python3"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/ray/session"), "set RAY_TMPDIR"),
        (caused_by(OSError(errno.EDQUOT, "Disk quota exceeded")), "free some space"),
        (RuntimeError("could not write: No space left on device"), "free some space"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes: /a/very/long"), "shorten TMPDIR"),
        (
            ConnectionError("Could not find any running Ray instance. Please"),
            "start one (`ray start --head`)",
        ),
        (ray.exceptions.AuthenticationError("no token"), "set RAY_AUTH_MODE=token"),
        (
            RuntimeError("Version mismatch: The cluster was started with: Ray: 2.55"),
            "the same Ray and Python",
        ),
        (ValueError("Attempting to cap object store memory usage at 1 bytes"), "--shm-size"),
        (TimeoutError("Timed out waiting for the GCS"), "head runs and answers"),
        (RuntimeError("failed to connect to GCS"), "head runs and answers"),
        (KeyError("what nobody expected"), ASK_THE_DOCTOR),
    ],
)
def test_the_advice_fits_the_cause(error, said):
    assert said in advice(error)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What `ray.init` is called with, on a machine where `ray start` has noted a cluster that answers."""
    calls: list[dict[str, object]] = []

    def init(**options):
        calls.append(options)
        raise RuntimeError("a test")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    for module in (address, ray_session):
        monkeypatch.setattr(module, "why_unreachable", lambda where: None)
    monkeypatch.setattr(ray_session.ray, "init", init)
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: None)

    def start(cluster: Cluster) -> dict[str, object]:
        with pytest.raises(LaunchError, match="could not connect to Ray at "):
            start_ray(cluster, tmp_path / "ray.log")
        return calls[-1]

    return start


def test_a_cluster_that_ray_start_noted_is_left_to_ray_to_find_which_takes_its_token_along(asked):
    """Ray sends its token by itself to a cluster that it found, and to none that is named."""
    assert asked(Cluster())["address"] is None


def test_a_cluster_that_is_named_is_named_to_ray(asked, monkeypatch):
    assert asked(Cluster(address="127.0.0.1:6379"))["address"] == "127.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert asked(Cluster())["address"] == "auto"


CLASSES = {
    name: kind
    for name, kind in vars(ray.exceptions).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == ray.exceptions.__name__
}


def test_every_class_of_rays_has_a_row():
    """A version that brings another fails here: read what it is, and give it a row."""
    assert CLASSES.keys() - MEANINGS.keys() == set()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ActorHandleNotFoundError", "transient"),  # a ValueError too
        ("ReferenceCountingAssertionError", "transient"),  # an AssertionError too
        ("NodeDiedError", "transient"),
        ("ObjectStoreFullError", "transient"),
        ("OutOfMemoryError", "hopeless"),
        ("AuthenticationError", "hopeless"),
        ("RuntimeEnvSetupError", "hopeless"),
    ],
)
def test_what_may_pass_is_tried_again(name, kind):
    error = CLASSES[name].__new__(CLASSES[name])
    assert failure_kind(error) == kind


def test_what_a_training_failed_of_says_what_to_do():
    error = RuntimeError("Training failed: rank 0: ray.exceptions.ObjectStoreFullError: no room")
    assert "--object-store-memory" in advice(error)


def test_what_a_wrapper_holds_says_more_than_the_wrapper():
    assert "--object-store-memory" in str(remedy_in("ray.exceptions.RayTaskError(ObjectStoreFullError): x"))
    assert "the code that ran" in str(remedy_in("ray.exceptions.RayTaskError(MineError): x"))
