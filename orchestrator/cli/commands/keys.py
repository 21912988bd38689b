"""`ekd keys`: every key of an experiment, with default, range and meaning."""

import argparse
import difflib
import textwrap

from orchestrator.errors import ExperimentError
from orchestrator.experiment.keys import Key, evaluation_keys, experiment_keys

WIDTH = 80


def run(arguments: argparse.Namespace) -> int:
    """Print the keys that begin with the prefix, else those that contain it; the exit status."""
    known = evaluation_keys() if arguments.evaluate else experiment_keys()
    print("\n\n".join(map(_described, matching(known, arguments.prefix))))
    return 0


def matching(known: list[Key], prefix: str) -> list[Key]:
    """Those of `known` that begin with `prefix`, else those that contain it; raises `ExperimentError`."""
    found = [key for key in known if key.name.startswith(prefix)]
    found = found or [key for key in known if prefix in key.name]
    if not found:
        words = {word for key in known for word in (key.name, *key.name.split("."))}
        near = difflib.get_close_matches(prefix, words, n=1)
        hint = f"did you mean {near[0]}?" if near else "`ekd keys` lists all"
        raise ExperimentError(f"no key has {prefix!r} in its name; {hint}")
    return found


def _described(key: Key) -> str:
    head = f"{key.name}: {key.default}" if key.default else key.name
    lines = textwrap.wrap(head, WIDTH, subsequent_indent="    ")
    for text in (f"[{key.takes}]", key.meaning):
        lines += textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
