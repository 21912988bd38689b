"""What a person finds in MLflow's own pages, on a real server, of a run and of a search, page after page.

EKD_SCREENSHOTS=FOLDER keeps a picture of each test's last page; EKD_DATABASE=sqlite takes that database.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.registry.champion import move_champion
from orchestrator.tracking.connection import connect

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
NAME = "ekd-golden"
RUNS = {1: "finished", 2: "searched"}
REASON = "the field team asked for it"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(ready, process, log):
    deadline = time.monotonic() + 400
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """PostgreSQL, as a server for many has it; SQLite, which all other tests have, where that is absent."""
    folder = tmp_path_factory.mktemp("database")
    if not POSTGRES or os.environ.get("EKD_DATABASE") == "sqlite":
        yield f"sqlite:///{folder}/mlflow.db"
        return
    data, log, port = folder / "data", folder / "postgres.log", free_port()
    data.mkdir()
    other = []
    if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
        shutil.chown(data, "postgres", "postgres")
        for parent in (folder, *list(folder.parents)[:3]):
            parent.chmod(parent.stat().st_mode | 0o011)
        other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    initdb = [*other, POSTGRES[-1] / "initdb", "-D", data, "--auth=trust", "--no-sync", "-U", "postgres"]
    subprocess.run(initdb, check=True, capture_output=True)
    serve = [
        *other,
        POSTGRES[-1] / "postgres",
        "-D",
        data,
        "-k",
        "",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-F",
    ]
    with open(log, "w") as messages:
        process = subprocess.Popen(serve, stdout=messages, stderr=messages)

    def ready():
        asked = [POSTGRES[-1] / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    try:
        wait_until(ready, process, log)
        yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # at once, whoever is connected
        process.wait()


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", database]
    command += ["--artifacts-destination", f"{folder}/artifacts"]
    # Its job consumers, which nobody here needs, are seven more processes that import MLflow.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with open(log, "w") as messages:
        process = subprocess.Popen(
            command, env=environment, stdout=messages, stderr=messages, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"

    def ready():
        try:
            urllib.request.urlopen(f"{address}/health", timeout=30).close()
        except OSError:
            return False
        return True

    wait_until(ready, process, log)
    yield address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def registered(server, tmp_path_factory):
    """By version: manifest and summary of the run; version 1 was champion before version 2, by hand."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for version, name in RUNS.items():
            shutil.copytree(GOLDEN / name, folder / name)
            assert main(["register", name, "--storage", ".", "--set", f"tracking.uri={server}"]) == 0
            files = (folder / name / file for file in ("manifest.json", "summary.json"))
            found[version] = tuple(json.loads(file.read_text()) for file in files)
        client = connect(server)
        move_champion(client, NAME, "1", kind="promoted", reason="the only one there was")
        assert main(["promote", f"models:/{NAME}/2", "--reason", REASON, "--tracking", server]) == 0
    return found


@pytest.fixture
def page(browser, registered, request):
    context = browser.new_context(viewport={"width": 1900, "height": 1300})
    opened = context.new_page()
    opened.set_default_timeout(180_000)
    yield opened
    if folder := os.environ.get("EKD_SCREENSHOTS"):
        context.pages[-1].wait_for_timeout(1500)
        context.pages[-1].screenshot(path=Path(folder, f"{request.node.name}.png"))
    context.close()


def open_runs(page, server):
    """The page that a run's last lines name."""
    page.goto(f"{server}/#/experiments/1?workflowType=machine_learning")
    page.get_by_role("link", name="searched", exact=True).wait_for()
    return page


def compare(page, server, names):
    """MLflow's comparison of the runs of these names."""
    client = connect(server)
    ids = {
        run.info.run_name: run.info.run_id for run in client.search_runs(["1"], order_by=["start_time ASC"])
    }
    chosen = ",".join(f"%22{ids[name]}%22" for name in names)
    page.goto(f"{server}/#/compare-runs?runs=[{chosen}]&experiments=[%221%22]")
    page.get_by_text(f"Comparing {len(names)} Runs").first.wait_for()
    return page


def wait_for_texts(page, *texts):
    """Parts of a page come one after the other: what is there already says nothing of the others."""
    for text in texts:
        page.wait_for_function("text => document.body.innerText.includes(text)", arg=text)


def drawn(page):
    """The params and metrics that MLflow has chosen for its chart of a comparison."""
    page.get_by_role("button", name="Clear All").wait_for()
    chosen = page.locator("body").inner_text().partition("Parameters:")[2].partition("Clear All")[0]
    return {line.strip() for line in chosen.splitlines()} - {"", "Metrics:"}


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


def test_the_printed_address_opens_the_table_of_runs(page, server, registered):
    open_runs(page, server)
    wait_for_texts(page, *RUNS.values())
    assert "teacher-0" not in page.locator("body").inner_text(), "children are folded below their runs"
    page.get_by_role("link", name="searched", exact=True).click()
    told = ("trial-0000", "trial-0001", "teacher-0", "share_of_ensemble_cost", "champion")
    wait_for_texts(page, verdict(registered[2][1]), *told)


def test_two_runs_are_compared_by_what_was_searched_and_by_accuracy(page, server):
    compare(page, server, RUNS.values())
    assert drawn(page) == {"distillation.temperature", "student.training.epochs", "accuracy"}


def test_trials_are_compared_by_what_was_searched_and_by_score(page, server):
    compare(page, server, ("trial-0000", "trial-0001"))
    assert drawn(page) == {"distillation.temperature", "score"}


def test_the_list_of_versions_shows_the_champion_and_each_verdict(page, server, registered):
    open_model(page, server)
    champion, replaced = (version_row(page, number) for number in (2, 1))
    champion.filter(has_text=f"champion: {REASON}").wait_for()
    champion.filter(has_text="@\N{NO-BREAK SPACE}champion").wait_for()
    replaced.filter(has_text=f"replaced by version 2: {REASON}").wait_for()
    for number in RUNS:
        said = connect(server).get_model_version(NAME, str(number)).description
        assert said.startswith(
            ("Not to be used: ", verdict(registered[number][1]), f"Champion by hand: {REASON}")
        )
        version_row(page, number).filter(has_text=said[:25]).wait_for()
    assert "@\N{NO-BREAK SPACE}champion" not in replaced.inner_text()


def test_the_model_page_tells_why_the_champion_changed(page, server):
    champion = open_model(page, server).get_by_text(f"Champion: version 2: {REASON}.")
    box = champion.bounding_box()
    assert box["y"] + box["height"] < page.viewport_size["height"], "seen without scrolling"
    wait_for_texts(
        page,
        "version none -> version 1 (promoted): the only one there was",
        f"version 1 -> version 2 (promoted): {REASON}",
    )


def test_the_version_page_holds_card_reason_and_lineage(page, server, registered):
    manifest, summary = registered[2]
    wait_for_texts(
        open_version(page, server, 2),
        verdict(summary),
        "How to use it",
        "logits, of 10 classes in this order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        "Limitations",
        "40 images for training",
        "report.html",
        manifest["data_fingerprint"],
        manifest["result_hash"],
        f"champion: {REASON}",
    )
    accuracy = f"{100 * summary['predictors']['control']['test']['accuracy']:.2f}"
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="control", exact=True))
    row.filter(has_text=accuracy).first.wait_for()


def test_version_logged_model_and_run_lead_to_each_other(page, server):
    open_version(page, server, 2).get_by_role("link", name="averaged-student-of-searched").click()
    page.get_by_role("heading", name="averaged-student-of-searched").wait_for()
    page.get_by_role("link", name=NAME).first.wait_for()
    wait_for_texts(page, "share_of_ensemble_cost")
    page.get_by_role("link", name="searched", exact=True).first.click()
    page.get_by_role("heading", name="searched").wait_for()
    page.get_by_role("link", name=NAME).first.wait_for()


def test_from_the_card_a_click_leads_to_the_run_its_data_set_and_its_artifacts(page, server, registered):
    manifest, _ = registered[1]
    run = follow(open_version(page, server, 1), "parent")
    run.get_by_role("heading", name="finished").wait_for()
    assert manifest["mlflow"]["parent"] in run.url
    run.get_by_text(f"digits ({manifest['data_fingerprint'][:36]})").first.wait_for()
    run.goto(f"{run.url.partition('?')[0].rstrip('/')}/artifacts")
    for file in ("model_card.md", "report.html"):
        run.get_by_text(file).first.wait_for()


def test_from_the_card_a_click_leads_to_a_training_run(page, server, registered):
    run = follow(open_version(page, server, 2), "student")
    run.get_by_role("heading", name="student").wait_for()
    assert registered[2][0]["mlflow"]["student"] in run.url


def test_versions_are_compared_side_by_side(page, server, registered):
    open_model(page, server)
    for number in RUNS:
        version_row(page, number).get_by_role("checkbox").check(force=True)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text(re.compile("Comparing 2 Versions")).first.wait_for()
    for number in RUNS:
        nll = registered[number][1]["predictors"]["averaged"]["test"]["nll"]
        page.get_by_role("row").filter(has_text="nll").filter(has_text=f"{round(nll, 3):g}").first.wait_for()
    page.get_by_role("row").filter(has_text="distillation.temperature").first.wait_for()
