"""The one way in which text reaches a terminal through rich."""

import sys
from collections.abc import Sequence
from textwrap import TextWrapper
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.experiment.redaction import redacted, visible


class PlainConsole(Console):
    """Prints what it is given, tables' cells too, as plain text: most of it others may have written.

    Rich's markup means nothing here, control characters are shown instead of obeyed, and what looks
    like a credential is left out.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text that is printed for a string; `options` as in `rich.console.Console.render_str`."""
        return super().render_str(visible(redacted(text)), **options)

    def say(self, text: str, style: str | None = None, *, indent: int = 0) -> None:
        """A sentence: on a terminal wrapped between words, elsewhere one line; an address stays whole.

        `indent`: columns before what does not fit on the first line.
        """
        width = self.width if self.is_terminal else sys.maxsize
        further = " " * indent
        fill = TextWrapper(
            width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
        ).fill
        self.print("\n".join(map(fill, text.splitlines())), style=style, soft_wrap=True)

    def show(self, table: Table, spare: Sequence[str] = ()) -> None:
        """A table; where it is too wide, without columns of `spare`, the first of them first."""
        left_out = self.fit(table, spare)
        self.print(table)
        if left_out:
            self.say(f"(a wider terminal shows {', '.join(left_out)} too)", style="dim")

    def fit(self, table: Table, spare: Sequence[str]) -> list[str]:
        """Take columns of `spare` from a table as long as it is too wide; their headings."""
        left_out = []
        for heading in spare:
            if self.measure(table, options=self.options.update(max_width=10_000)).maximum <= self.width:
                break
            kept = [column for column in table.columns if column.header != heading]
            table.columns = Table(*kept).columns  # which numbers them anew: the last has no space after it
            left_out.append(" ".join(heading.split()))
        return left_out
