"""What a person finds in MLflow's own pages, on a real server: champion, why, card, lineage, comparison."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.experiment import build_experiment
from orchestrator.model_card import model_card
from orchestrator.registry import lineage_tags, move_champion, register_averaged_student
from orchestrator.tracking import Tracker

pytestmark = pytest.mark.slow

NAME = "ekd-digits"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/artifacts"]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1).close()
            break
        except OSError:
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def registered(server, tmp_path_factory):
    """Two finished runs with teachers and data; the second is better, then the first is put back by hand."""
    experiment = build_experiment({"name": "digits", "description": "Small and quick."}).resolved()
    tracker = None
    for number, accuracy in ((1, 0.91), (2, 0.93)):
        tracker = Tracker.open(
            server,
            "digits",
            f"digits-{number}",
            ekd_run_id=f"digits-{number}",
            instance=str(number),
            spool=tmp_path_factory.mktemp(f"spool-{number}"),
        )
        teacher = tracker.child("teacher-0")
        tracker.log_metrics(teacher, {"averaged/accuracy": 0.9}, 1)
        tracker.log_dataset(tracker.run_id, "digits", "digits", "f00d" * 16, context="train")
        tracker.log_params(tracker.run_id, experiment)
        tracker.log_metrics(tracker.run_id, {"test/averaged/accuracy": accuracy}, 0)
        metrics = {"accuracy": accuracy, "nll": 0.3}
        measured = {"params": 650, "macs": 640, "test": metrics, "validation": metrics}
        summary = {
            "run_id": f"digits-{number}",
            "experiment": "digits",
            "predictors": {"averaged": measured, "ensemble": measured, "control": measured},
        }
        runs = {
            name: f"#/experiments/{tracker.experiment_id}/runs/{tracker.resolve(run)}"
            for name, run in {"parent": tracker.run_id, "teacher-0": teacher}.items()
        }
        lineage = lineage_tags(
            teacher_run_ids=[tracker.resolve(teacher)],
            data_fingerprint="f00d" * 16,
            experiment_hash="beef" * 16,
            code="abc",
        )
        torch.manual_seed(number)
        register_averaged_student(
            tracker,
            tracker.run_id,
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
            np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32),
            name=NAME,
            tags={"ekd.test.accuracy": str(accuracy), **lineage},
            description=model_card(summary, experiment, lineage, runs),
            validation_metrics=metrics,
        )
        assert tracker.close("FINISHED") is None
    move_champion(tracker.client, NAME, "1", kind="promoted", reason="the field team asked for it")


@pytest.fixture
def page(browser, registered):
    context = browser.new_context(viewport={"width": 1600, "height": 1300})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    yield opened
    context.close()


def open_model(page, server):
    page.goto(f"{server}/#/models/{NAME}")
    page.get_by_role("link", name="Version 2", exact=True).wait_for()
    return page


def version_row(page, number):
    link = page.get_by_role("link", name=f"Version {number}", exact=True)
    return page.get_by_role("row").filter(has=link)


def test_the_list_of_versions_shows_the_champion_and_each_verdict(page, server):
    open_model(page, server)
    assert "champion" in version_row(page, 1).inner_text()
    assert "champion" not in version_row(page, 2).inner_text()
    assert "replaced by version 1: the field team asked for it" in version_row(page, 2).inner_text()
    assert "Test accuracy 93" in version_row(page, 2).inner_text()


def test_the_model_page_tells_why_the_champion_changed(page, server):
    told = open_model(page, server).locator("body").inner_text()
    assert "version none -> version 1 (registered): the first champion" in told
    assert "version 1 -> version 2 (registered): better: validation accuracy 0.9300" in told
    assert "version 2 -> version 1 (promoted): the field team asked for it" in told


def test_the_version_page_holds_card_reason_and_lineage(page, server):
    open_model(page, server).get_by_role("link", name="Version 1", exact=True).click()
    page.get_by_text("Results on the test images").wait_for()
    shown = page.locator("body").inner_text()
    for text in ("Test accuracy 91.00 %", "How to use it", "Limitations", "f00d" * 16, "field team"):
        assert text in shown, text
    assert page.get_by_role("table").get_by_text("averaged").count() >= 1


def test_from_the_version_a_click_leads_to_the_teachers_run_and_its_data(page, server):
    open_model(page, server).get_by_role("link", name="Version 2", exact=True).click()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="teacher-0").click()
    opened.value.get_by_role("heading", name="teacher-0").wait_for(timeout=60_000)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="parent").click()
    opened.value.get_by_role("heading", name="digits-2").wait_for(timeout=60_000)
    opened.value.get_by_text("digits").first.wait_for()


def test_versions_are_compared_side_by_side(page, server):
    open_model(page, server)
    for number in (1, 2):
        version_row(page, number).get_by_role("checkbox").check(force=True)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text(re.compile("Comparing 2 Versions")).first.wait_for()
    page.get_by_text("test/averaged/accuracy").first.wait_for()
    for accuracy in ("0.91", "0.93"):
        page.get_by_text(re.compile(rf"^{re.escape(accuracy)}")).first.wait_for()
