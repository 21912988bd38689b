"""`make gpu`: checks and times training on a GPU in at most eight minutes, and writes docs/gpu.md.

`--tiny`: the same script with small networks on whatever device there is, to see that it works.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.checks import Check, checks
from benchmarks.gpu.speed import Row, rows

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
RESULTS = "## What `make gpu` found\n"
MINUTES = 7
"""After which no further row is begun: compiling one and timing it takes up to another."""


def main(arguments: Sequence[str]) -> int:
    """0, also where there is no GPU; 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small networks, on a CPU too")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose results are written")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not options.tiny:
        print("no GPU: nothing was run")
        return 0
    deadline = time.monotonic() + 60 * MINUTES
    devices = [torch.device("cuda", n) for n in range(torch.cuda.device_count())] or [torch.device("cpu")]
    found, timed = [], []
    for check in checks(devices[0], devices[1] if len(devices) > 1 else None):
        found.append(check)
        print(_of_check(check), flush=True)
    for row in rows(devices[0], deadline, tiny=options.tiny):
        timed.append(row)
        print(_of_row(row), flush=True)
    write(options.page, devices[0], len(devices), found, timed)
    print(options.page)
    return int(any(check.kept is False for check in found))


def write(page: Path, device: torch.device, count: int, found: Sequence[Check], timed: Sequence[Row]) -> None:
    """Put the results in place of the page's last section."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU, in miniature"
    lines = [
        RESULTS,
        f"{time.strftime('%Y-%m-%d')}, {count} x {name}, PyTorch {torch.__version__}.\n",
        "| promise | kept | seen |",
        "|---|---|---|",
        *map(_of_check, found),
        "",
        "Whole steps in bfloat16; the last column: multiplications, against one large matrix product.\n",
        "| step | batch | compiled | images/s | of the peak |",
        "|---|---|---|---|---|",
        *map(_of_row, timed),
    ]
    before = page.read_text().partition(RESULTS)[0]
    page.write_text(before + "\n".join(lines) + "\n")


def _of_check(check: Check) -> str:
    kept = {True: "yes", False: "NO", None: "not tried"}[check.kept]
    return f"| {check.what} | {kept} | {check.seen} |"


def _of_row(row: Row) -> str:
    numbers = row.why_not and f"{row.why_not} |"
    numbers = numbers or f"{row.images_per_s:,.0f} | {100 * row.share_of_peak:.1f} %"
    return f"| {row.what} | {row.batch_size} | {row.compiled} | {numbers} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
