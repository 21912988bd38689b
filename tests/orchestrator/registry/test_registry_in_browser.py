"""What a person finds in MLflow's own pages, on a real server, of two real runs: champion, card, lineage."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from orchestrator.cli.main import main
from orchestrator.registry.listing import list_versions
from orchestrator.tracking.connection import connect

pytestmark = pytest.mark.slow

NAME = "ekd-digits-smoke"
REASON = "the field team asked for it"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/artifacts"]
    # Its job consumers, which nobody here needs, are seven more processes that import MLflow.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 400
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=30).close()
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
    """Two runs of the product, by version: manifest and summary; the one that lost is promoted by hand."""
    folder = tmp_path_factory.mktemp("runs")
    settings = ["cluster.address=local", f"tracking.uri={server}", "teachers.count=2", "student.members=2"]
    found = {}
    for number in (1, 2):
        command = [
            sys.executable,
            "-m",
            "orchestrator",
            "run",
            "digits",
            "--smoke",
            "--run-id",
            f"run-{number}",
        ]
        for setting in (*settings, f"seed={number}"):
            command += ["--set", setting]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"models:/{NAME}/{number}"
        stored = folder / "ekd-runs" / f"run-{number}"
        found[number] = tuple(
            json.loads((stored / file).read_text()) for file in ("manifest.json", "summary.json")
        )
    (loser,) = [int(v.version) for v in list_versions(connect(server), NAME) if "champion" not in v.aliases]
    assert main(["promote", f"models:/{NAME}/{loser}", "--reason", REASON, "--tracking", server]) == 0
    return found | {"champion": loser, "replaced": 3 - loser}


@pytest.fixture
def page(browser, registered):
    context = browser.new_context(viewport={"width": 1600, "height": 1300})
    opened = context.new_page()
    opened.set_default_timeout(180_000)
    yield opened
    context.close()


def open_model(page, server):
    page.goto(f"{server}/#/models/{NAME}")
    page.get_by_role("link", name="Version 2", exact=True).wait_for()
    return page


def version_row(page, number):
    link = page.get_by_role("link", name=f"Version {number}", exact=True)
    return page.get_by_role("row").filter(has=link)


def open_version(page, server, number):
    open_model(page, server).get_by_role("link", name=f"Version {number}", exact=True).click()
    page.get_by_text("Results on the test images").wait_for()
    return page


def follow(page, link):
    """The page that a link of the card opens, of one MLflow run."""
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=link, exact=True).click()
    return opened.value


def verdict(summary):
    return f"Test accuracy {100 * summary['predictors']['averaged']['test']['accuracy']:.2f} %"


def test_the_list_of_versions_shows_the_champion_and_each_verdict(page, server, registered):
    open_model(page, server)
    champion, replaced = (version_row(page, registered[who]) for who in ("champion", "replaced"))
    assert f"champion: {REASON}" in champion.inner_text()
    assert "@\N{NO-BREAK SPACE}champion" in champion.inner_text()
    assert "@\N{NO-BREAK SPACE}champion" not in replaced.inner_text()
    assert f"replaced by version {registered['champion']}: {REASON}" in replaced.inner_text()
    for number in (1, 2):
        assert verdict(registered[number][1]) in version_row(page, number).inner_text()


def test_the_model_page_tells_why_the_champion_changed(page, server, registered):
    champion = open_model(page, server).get_by_text(f"Champion: version {registered['champion']}: {REASON}.")
    box = champion.bounding_box()
    assert box["y"] + box["height"] < page.viewport_size["height"], "seen without scrolling"
    told = page.locator("body").inner_text()
    assert "version none -> version 1 (registered): the first champion: validation accuracy" in told
    assert (
        f"version {registered['replaced']} -> version {registered['champion']} (promoted): {REASON}" in told
    )


def test_the_version_page_holds_card_reason_and_lineage(page, server, registered):
    number = registered["champion"]
    manifest, summary = registered[number]
    shown = open_version(page, server, number).locator("body").inner_text()
    for text in (
        verdict(summary),
        "How to use it",
        "Limitations",
        "32 images for training",
        "report.html",
        manifest["data_fingerprint"],
        manifest["result_hash"],
        f"champion: {REASON}",
    ):
        assert text in shown, text
    accuracy = f"{100 * summary['predictors']['control']['test']['accuracy']:.2f}"
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="control", exact=True))
    assert accuracy in row.first.inner_text()


def test_from_the_card_a_click_leads_to_the_run_its_data_set_and_its_artifacts(page, server, registered):
    manifest, _ = registered[1]
    run = follow(open_version(page, server, 1), "parent")
    run.get_by_role("heading", name="run-1").wait_for()
    assert manifest["mlflow"]["parent"] in run.url
    run.get_by_text(f"digits ({manifest['data_fingerprint'][:36]})").first.wait_for()
    run.goto(f"{run.url.partition('?')[0].rstrip('/')}/artifacts")
    for file in ("model_card.md", "report.html"):
        run.get_by_text(file).first.wait_for()


@pytest.mark.parametrize("name", ["teacher-0", "teacher-1", "control", "student"])
def test_from_the_card_a_click_leads_to_every_training_run(page, server, registered, name):
    run = follow(open_version(page, server, 2), name)
    run.get_by_role("heading", name=name).wait_for()
    assert registered[2][0]["mlflow"][name] in run.url


def test_versions_are_compared_side_by_side(page, server, registered):
    open_model(page, server)
    for number in (1, 2):
        version_row(page, number).get_by_role("checkbox").check(force=True)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text(re.compile("Comparing 2 Versions")).first.wait_for()
    page.get_by_text("test/averaged/nll").first.wait_for()
    compared = page.get_by_role("row").filter(has_text="test/averaged/nll").first.inner_text()
    for number in (1, 2):
        nll = registered[number][1]["predictors"]["averaged"]["test"]["nll"]
        assert str(nll)[:4] in compared
