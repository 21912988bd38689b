"""The site is built without a warning, needs no network to be read, and has every key, command and error."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.table import COMMANDS
from orchestrator.experiment.keys import evaluation_keys, experiment_keys

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_nothing_is_fetched_by_who_reads_it(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"?([^\" >]+)", page.read_text())
        assert [one for one in loaded if re.match(r"(https?:)?//", one)] == [], page.name


def test_every_key_is_on_its_page_with_its_meaning(site):
    shown = " ".join(text_of(site / "keys.html").split())
    for key in (*experiment_keys(), *evaluation_keys()):
        assert key.name in shown
        assert key.meaning.replace("`", "") in shown, key.name


def test_every_command_and_every_kind_of_error_is_on_its_page(site):
    commands, errors = text_of(site / "commands.html"), text_of(site / "troubleshooting.html")
    assert [name for name in COMMANDS if f"usage: ekd {name}" not in commands] == []
    sources = [
        path.read_text()
        for package in ("orchestrator", "ekd_train")
        for path in (ROOT / package).rglob("*.py")
    ]
    classes = set(re.findall(r"^class (\w+)\(EkdError", "\n".join(sources), re.MULTILINE))
    assert len(classes) > 10
    assert [name for name in classes if name not in errors] == []
    assert "this run is being run by …; wait for it, or stop that process" in errors
    for in_a_table in (
        "the file server behind it has gone; mount it again",
        "the bucket does not exist; create it at …",
        "database is locked; end the other process that holds its database",
        "Version mismatch; install the same Ray and Python here and on the cluster",
        "Connection refused; start it again",
        "413 Payload; the server, or the proxy before it, takes no files so large",
        "…: has no class folders; put one folder of images per class there",
        "`ekd status` lists them",
        "no command 'pln'; did you mean plan?",
        "input should be greater than 0, not -1",
        "unknown architecture 'resnet19'; the nearest are resnet18",
        "depth must be 6n+4 with n >= 1, got 11; the nearest is 10",
        "depth, width and stem_channels apply to wide_resnet and resnet only",
        "freeze: there is no 'stems'; there are backbone, stem",
        "cluster.gpus_per_worker is 1 but there is no GPU",
        "but none can ever fit",
        "storage.uri begins with s3:// but no valid bucket name follows",
        "which is not supported; valid forms: a folder",
        "cannot connect to …; check that it runs, storage.endpoint_url and the network",
    ):
        assert in_a_table in errors


def test_a_public_function_is_documented_with_its_shapes_and_example(site):
    shown = text_of(site / "api.html")
    for name in ("load_experiment", "build_model", "member_kd", "perturb", "load_dataset"):
        assert name in shown
    assert "(b, in_channels, h, w)" in shown
    assert "model = build_model(" in shown


def test_the_functions_of_the_losses_are_on_the_page_and_not_their_modules(site):
    shown = text_of(site / "api.html")
    for name in ("mean_kd", "member_kd", "ekd", "proxy_end2"):
        assert f"ekd_train.objectives.{name}.{name}" in shown


def test_the_examples_can_be_fetched_from_the_site(site):
    published = {path.name for path in (site / "examples").iterdir()}
    assert published >= {path.name for path in (ROOT / "docs/examples").iterdir() if path.is_file()}
    for page, example in (("own_code", "mine.py"), ("python", "three_networks_to_one.ipynb")):
        assert f"examples/{example}" in (site / f"{page}.html").read_text()
    for page, example in (("teachers", "program.py"), ("serving", "serve_student.py")):
        assert f"examples/{example}" in (site / f"{page}.html").read_text()


def test_examples_on_the_page_of_functions_can_be_copied(site):
    assert "<blockquote>" not in (site / "api.html").read_text()
    assert ">>> class FirstTeacher(Objective):\n...     needs_teachers = True\n" in text_of(site / "api.html")
