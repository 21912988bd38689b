"""The one way in which text reaches a terminal through rich."""

from typing import Any

from rich.console import Console
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
