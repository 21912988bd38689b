"""For the site: doctests of docstrings as code; mkdocstrings knows only those below a heading."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1(?:>>>|\.\.\.).*|\n\1(?!>>>)\S.*)*", re.MULTILINE)


def fenced(text: str) -> str:
    r"""`text` with each run of doctests between fences.

    >>> fenced("Adds.\n\n>>> 1 + 1\n2\n")
    'Adds.\n\n```pycon\n>>> 1 + 1\n2\n```\n'
    """
    return EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


class FencedExamples(Extension):
    """Of every object that has a docstring."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Once for each, before it is shown."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
