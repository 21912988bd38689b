"""What `make docs` writes into pages: keys, commands and errors from the sources, files from outside `docs`.

A page says where with a comment, `<!-- keys -->`, so that it can be linked to and read as it lies. MkDocs
calls `on_page_markdown` for each page.
"""

import ast
import io
import posixpath
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from itertools import product
from pathlib import Path

from orchestrator.cli.main import build_parser
from orchestrator.cli.table import COMMANDS
from orchestrator.experiment.keys import Key, evaluation_keys, experiment_keys
from orchestrator.storage import base

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "tune_spaces", "ekd_train")
INCLUDED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "cluster/README.md": "cluster.md",
}
"""Files that lie elsewhere, and the pages that show them."""
WHERE_KEYS_ARE_CHECKED = ("/settings", "/experiment/", "ekd_train/models/", "orchestrator/storage/")
"""Whose `ValueError` is printed as a key's error."""


def on_page_markdown(markdown, page, **_):
    """The page's text, completed."""
    source = f"docs/{page.file.src_uri}"
    if included := re.fullmatch(r"<!-- include (\S+) -->\s*", markdown):
        source = included[1]
        markdown = (ROOT / source).read_text(encoding="utf-8")
    for name, write in GENERATED.items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, write())
    return with_links_of_the_site(markdown, source, page.file.src_uri)


def with_links_of_the_site(markdown: str, source: str, page: str) -> str:
    """Links of the file `source` as the page needs them; what has no page is named without a link."""

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        shown = INCLUDED.get(path, path.removeprefix("docs/"))
        if (path not in INCLUDED and not path.startswith("docs/")) or re.match(r"docs/[^/]*\.py$", path):
            return text if path in text else f"{text} (`{path}`)"
        return f"[{text}]({posixpath.relpath(shown, posixpath.dirname(page) or '.')}{anchor})"

    return re.sub(r"(?<!!)\[([^\]\[]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)


def keys() -> str:
    """Every key of an experiment, group by group, then those of `ekd evaluate`."""
    known = experiment_keys()
    parts = []
    for group in dict.fromkeys(key.name.rpartition(".")[0] for key in known):
        heading = f"`{group}`" if group else "Of the whole experiment"
        parts.append(
            f"## {heading}\n\n" + _rows([key for key in known if key.name.rpartition(".")[0] == group])
        )
    return "\n\n".join([*parts, "## `ekd evaluate --set`\n\n" + _rows(evaluation_keys())])


def _rows(shown: list[Key]) -> str:
    lines = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for key in shown:
        default = f"`{_cell(key.default)}`" if key.default else ""
        lines.append(f"| `{key.name}` | {default} | {_cell(key.takes)} | {_cell(key.meaning)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "&#124;") if "`" not in text else text.replace("|", r"\|")


def commands() -> str:
    """The help of every command, as it is printed."""
    return "\n\n".join(
        f"## `ekd {name}`\n\n{command.description}\n\n```text\n{_help_of(name)}\n```"
        for name, command in COMMANDS.items()
    )


def _help_of(command: str) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        build_parser().parse_args([command, "--help"])
    return printed.getvalue().strip()


def errors() -> str:
    """Every message of an error that a user may meet, with `…` where it names something."""
    documented = dict(error_classes())
    found: dict[str, set[str]] = {name: set() for name in documented}
    for name, message in (*messages(set(documented)), *tables()):
        if (text := shown(message)) is not None:
            found[name].add(text)
    return "\n\n".join(
        f"### {name}\n\n{documented[name]}\n\n" + "\n".join(map(_item, sorted(found[name])))
        for name in sorted(found)
    )


def shown(message: str) -> str | None:
    """A message on one line; None of one with fewer than three words, for which nobody can search."""
    text = re.sub("…[… ]*…", "…", " ".join(message.split()))
    return text if len(re.findall(r"[A-Za-z][\w.'-]*", text)) >= 3 else None


def _item(text: str) -> str:
    return f"- `` {text} ``" if "`" in text else f"- `{text}`"


def samples(pattern: str) -> list[str]:
    """Texts that a table's regular expression finds, each alternative's: without its signs.

    >>> samples(r"[Cc]onnection refused|\\b413 (Payload|Content)|database \\"\\S+\\" lost")
    ['Connection refused', '413 Payload', '413 Content', 'database "…" lost']
    """
    plain = re.sub(r"\[(.)[^\]]*\]", r"\1", pattern).replace(r"\b", "")
    plain = re.sub(r"\\(.)", r"\1", re.sub(r"\\[Sdw][+*]", "…", plain))
    found: list[str] = []
    for alternative in re.split(r"\|(?![^(]*\))", plain):
        parts = re.split(r"\(([^()]*)\)", alternative)  # every second one was in parentheses
        found += map(
            "".join, product(*(part.split("|") if i % 2 else [part] for i, part in enumerate(parts)))
        )
    return found


def error_classes() -> Iterator[tuple[str, str]]:
    """Name and description of every class of errors whose message is for a user."""
    known = {"EkdError"}
    trees = [node for tree in _trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # subclasses of subclasses
        for node in trees:
            if {base.id for base in node.bases if isinstance(base, ast.Name)} & known:
                known.add(node.name)
    for node in trees:
        if node.name in known:
            yield node.name, " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    yield (
        "ValueError",
        "A key's value, or two keys together, that cannot be; the message begins with the key.",
    )


def messages(classes: set[str]) -> Iterator[tuple[str, str]]:
    """Class and text, as printed, of every error that is made; of `ValueError` where keys are checked."""
    for path, tree in zip(_sources(), _trees(), strict=True):
        place = path.relative_to(ROOT).as_posix()
        keys_are_checked = any(part in place for part in WHERE_KEYS_ARE_CHECKED)
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            name = call.func.id
            if name in classes and (name != "ValueError" or keys_are_checked):
                yield name, _printed(name, [_text(part) for part in call.args])


def _printed(name: str, parts: list[str]) -> str:
    """What `str(error)` is: of most the message, of some `where: problem; remedy`."""
    kind = getattr(base, name, None)
    if (
        isinstance(kind, type) and issubclass(kind, base.StorageError) and len(parts) < 3
    ):  # of the storage's, whose classes say what is left out
        parts = [*(parts or ["…"]), *([kind.PROBLEM] if len(parts) < 2 else []), kind.REMEDY]
    where, *said = [part for part in parts if part] or [""]
    return f"{where}: {'; '.join(said)}" if said else where


def tables() -> Iterator[tuple[str, str]]:
    """Class and text of errors whose words stand in tables, some after those of MLflow or Ray."""
    of_others = {"BY_TEXT": "TrackingError", "_BY_TEXT": "LaunchError"}
    for path, tree in zip(_sources(), _trees(), strict=True):
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="Meaning"), args=[problem, remedy, *_]):
                    told = re.sub(r"{\w+}", "…", _text(problem))
                    name, pairs = "StorageError", [(f"…: {told}", _text(remedy))]
                case ast.Call(func=ast.Name(id="Meaning"), args=[remedy]):
                    name, pairs = "LaunchError", [("…", _text(remedy))]
                case ast.Assign(value=ast.Constant(value=str(remedy))) if path.match("tracking/errors.py"):
                    name, pairs = "TrackingError", [("…", remedy)]
                case ast.Tuple(elts=[problem, remedy]) if "orchestrator/storage" in path.as_posix():
                    name, pairs = "StorageError", [(f"…: {_text(problem)}", _text(remedy))]
                case ast.Assign(targets=[ast.Name(id=table)], value=ast.Dict(keys=keys, values=values)):
                    name = of_others.get(table, "")
                    pairs = [
                        (text, _text(value))
                        for key, value in zip(keys, values, strict=True)
                        if key and name
                        for text in samples(_text(key))
                    ]
                case _:
                    continue
            for what, do in pairs if name else []:
                if " " in do:  # others are no sentences
                    yield name, f"{what}; {do}"


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def _sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def _trees() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in _sources()]


GENERATED = {"keys": keys, "commands": commands, "errors": errors}
"""Marker -> what stands there."""
