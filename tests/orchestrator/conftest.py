"""One migrated SQLite store for all tests of tracking and registry: its creation takes seconds."""

import itertools
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from smoke_runs import once, run_smoke

from ekd_train import waiting
from orchestrator.tracking import Tracker

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def interrupts_reach_what_tests_start():
    """A shell starts commands in the background with SIGINT ignored, which all processes below inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def environment_given_back():
    """For a Ray in this process: what is set for it stays, and would hide that another run did not set it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def nothing_is_said_twice_from_before():
    """A view that a test does not stop, or what a library gave the root logger, would say on stderr what
    later tests look for there."""
    root, voices = logging.getLogger(), list(waiting.log.handlers)
    handlers = list(root.handlers)
    yield
    waiting.log.handlers[:] = voices
    for handler in list(root.handlers):
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)


@pytest.fixture(autouse=True)
def no_mlflow_environment(monkeypatch):
    """Tests neither see the caller's MLflow settings nor leave `connect`'s behind."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    yield
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.is_tracking_uri_set():
        left = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(None)
        pytest.fail(f"MLflow's global store was left set to {left}, for every later test")


@pytest.fixture(scope="session")
def finished_smoke_run(tmp_path_factory) -> Path:
    """The folder of one finished `ekd run digits --smoke` (`runs/smoke`), shared by all processes of the
    session: read it, or copy it with `shutil.copytree` to change it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    return once(base / "finished-smoke-run", lambda folder: run_smoke("digits", folder))


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store with a space')}/mlflow.db"


@pytest.fixture
def open_tracker(store_uri):
    """Opens the tracker of one `ekd run`, as often as a test likes."""
    ekd_run_id = f"run-{next(_numbers)}"

    def open_it(
        uri: str = store_uri,
        ekd_run_id: str = ekd_run_id,
        instance: str = "1",
        experiment: str = "digits",
        **more: Any,
    ) -> Tracker:
        return Tracker.open(uri, experiment, ekd_run_id, instance=instance, **more)

    return open_it


@pytest.fixture
def tracker(open_tracker) -> Tracker:
    return open_tracker()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, driven by Playwright; Debian's, because a download of its own needs a CDN.

    Not of the session: while Playwright's synchronous API is in use its event loop counts as running in this
    thread, so that no later test could call `asyncio.run`.
    """
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: install the extra `dev`")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs a Chromium: apt-get install chromium, or set CHROMIUM to one")
    switches = ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-sync", *switches],
            timeout=180_000,
        )
        yield started
        started.close()
