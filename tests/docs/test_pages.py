"""What stands on the pages is in the sources: errors by their text, keys, commands, links of root files."""

import inspect
import re
import shlex
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import yaml

from docs.site_pages import commands, keys, messages, samples, shown, with_links_of_the_site
from orchestrator.cli.main import main
from orchestrator.cli.table import COMMANDS
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.keys import evaluation_keys, experiment_keys
from orchestrator.planning.capacity import Capacity, Node, why_never

ROOT = Path(__file__).parents[2]


def test_the_errors_that_people_meet_first_are_messages_of_the_sources():
    page = (ROOT / "docs/troubleshooting.md").read_text().partition("## What a command")[0]
    quoted = [
        text for row in re.findall(r"(?m)^\| (`.*?) \|", page) for text in re.findall(r"`([^`]+)`", row)
    ]
    assert len(quoted) >= 8
    sources = [
        path.read_text()
        for package in ("orchestrator", "ekd_train")
        for path in (ROOT / package).rglob("*.py")
    ]
    said = re.sub(r"\"\s+f?\"", "", "\n".join(sources))  # texts of several lines are one
    for text in quoted:
        parts = [part.strip() for part in re.split(r"…\??|;|\b\d+\b", text) if len(part.strip()) > 3]
        assert [part for part in parts if part not in said] == [], text


def test_what_a_command_is_told_is_what_the_page_says(capsys, monkeypatch, tmp_path):
    section = (ROOT / "docs/troubleshooting.md").read_text().partition("## What a command")[2]
    rows = re.findall(r"(?m)^\| `ekd (.*?)` \| `(.*?)` \|$", section.partition("## Every message")[0])
    assert len(rows) >= 20
    monkeypatch.chdir(tmp_path)
    for arguments, text in rows:
        with suppress(SystemExit):  # argparse's
            assert main(shlex.split(arguments)) == 2
        said = capsys.readouterr().err
        assert [part for part in text.split("…") if part.strip(" ,;") not in said] == [], (arguments, said)


def test_what_a_machine_has_no_room_for_is_what_the_page_says():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    laptop = Capacity((Node(2),), "this machine")
    for text, cluster in (
        ("cluster.gpus_per_worker is 1 but there is no GPU", Cluster(gpus_per_worker=1)),
        ("cluster.workers_per_run: a run needs 1 worker of 4 CPUs", Cluster(cpus_per_worker=4)),
    ):
        (row,) = re.findall(rf"`({re.escape(text)}.*?)`", page)
        said = why_never(cluster, laptop)
        assert [part for part in row.split("…") if part not in said] == [], said


def test_a_message_stands_as_it_is_printed():
    (said,) = [text for name, text in messages({"DataError"}) if "has no class folders" in text]
    assert said == "…: has no class folders; put one folder of images per class there"
    assert shown("…: … a") is None
    assert shown("… … no\nsuch run") == "… no such run"
    assert samples(r"[Vv]ersion mismatch") == ["Version mismatch"]
    assert samples(r"No module named '(psycopg|pymysql)") == [
        "No module named 'psycopg",
        "No module named 'pymysql",
    ]
    assert samples(r"database \"\S+\" does not exist|Unknown database") == [
        'database "…" does not exist',
        "Unknown database",
    ]
    assert samples(r"\b413 (Payload|Content)|disk is full") == ["413 Payload", "413 Content", "disk is full"]


def test_pages_of_keys_and_commands_have_them_all():
    shown = keys()
    assert [
        key.name for key in (*experiment_keys(), *evaluation_keys()) if f"| `{key.name}` |" not in shown
    ] == []
    assert re.findall(r"(?m)^## `ekd ([a-z]+)`$", commands()) == list(COMMANDS)


def test_a_link_leads_to_the_page_that_shows_the_file_and_what_has_no_page_is_named():
    text = "[a](../cluster/README.md#x) [b](../benchmarks/arms.py) [c](teachers.md) ![d](assets/d.svg) [e](https://e.org)"
    assert with_links_of_the_site(text, "docs/data.md", "data.md") == (
        "[a](cluster.md#x) b (`benchmarks/arms.py`) [c](teachers.md) ![d](assets/d.svg) [e](https://e.org)"
    )
    assert (
        with_links_of_the_site("[g](examples/mine.py)", "docs/data.md", "data.md") == "[g](examples/mine.py)"
    )
    assert with_links_of_the_site("[h](pictures.py)", "docs/data.md", "data.md") == "h (`docs/pictures.py`)"
    assert with_links_of_the_site("[f](docs/slurm.md)", "CHANGELOG.md", "changelog.md") == "[f](slurm.md)"


def test_every_page_is_in_the_menu_or_linked_from_one_that_is():
    menu = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.name for folder in ("docs", "docs/adr") for path in (ROOT / folder).glob("*.md")}
    assert {name for name in pages if not re.search(rf"\b{re.escape(name)}", menu)} == set()
    assert yaml.safe_load("nav:" + menu)


def named(name):
    """The module, or what it has, of a dotted name; a function may be called as its module."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(import_module(module), attribute)


def test_every_name_of_the_api_has_an_example():
    names = re.findall(r"^::: (\S+)", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    for name in names:
        if name.rpartition(".")[2] in ("Summary", "Draw", "Networks", "Split"):
            continue  # are given to whoever calls or is called; the examples of others have them
        found = named(name)
        members = [found]
        if inspect.ismodule(found):
            members = [one for one in vars(found).values() if getattr(one, "__module__", None) == name]
        for one in members:
            if not one.__name__.startswith("_"):
                assert ">>> " in one.__doc__, f"{name}: {one.__name__} has no example"
