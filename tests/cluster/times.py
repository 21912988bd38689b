"""How long faults took to be noticed and to be overcome."""

import pytest


class Times:
    """How long it took to notice a fault and to go on, for the table at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float, float]] = []

    def note(self, fault: str, noticed_s: float, continued_s: float, run_s: float) -> None:
        """Seconds from the fault until a message of it, until training went on, and of the whole run."""
        self.rows.append((fault, noticed_s, continued_s, run_s))

    def table(self) -> str:
        """One line a fault."""
        lines = [f"{'fault':58s} {'noticed':>9s} {'goes on':>9s} {'whole run':>9s}"]
        for fault, *seconds in self.rows:
            lines.append(f"{fault:58s} " + " ".join(f"{value:7.1f} s" for value in seconds))
        return "\n".join(lines)


TIMES: pytest.StashKey[Times] = pytest.StashKey()
"""Of the test session, for the table at its end."""
