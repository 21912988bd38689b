"""What stands on the pages is in the sources: errors by their text, keys, commands, links of root files."""

import inspect
import pydoc
import re
from pathlib import Path

import yaml

from docs.site_pages import commands, keys, with_links_of_the_site
from orchestrator.cli.table import COMMANDS
from orchestrator.experiment.keys import evaluation_keys, experiment_keys

ROOT = Path(__file__).parents[2]


def test_the_errors_that_people_meet_first_are_messages_of_the_sources():
    page = (ROOT / "docs/troubleshooting.md").read_text().partition("## Every message")[0]
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
    assert with_links_of_the_site("[f](docs/slurm.md)", "CHANGELOG.md", "changelog.md") == "[f](slurm.md)"


def test_every_page_is_in_the_menu_or_linked_from_one_that_is():
    menu = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {name for name in pages if not re.search(rf"\b{re.escape(name)}", menu)} == set()
    assert yaml.safe_load("nav:" + menu)


def test_every_name_of_the_api_has_an_example():
    for name in re.findall(r"^::: (\S+)", (ROOT / "docs/api.md").read_text(), re.MULTILINE):
        found = pydoc.locate(name)
        members = [found]
        if inspect.ismodule(found):
            members = [one for one in vars(found).values() if getattr(one, "__module__", None) == name]
        for one in members:
            if not one.__name__.startswith("_"):
                assert ">>> " in one.__doc__, f"{name}: {one.__name__} has no example"
