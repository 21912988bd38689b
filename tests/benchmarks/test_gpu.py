"""The script for GPUs works, as far as a CPU can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as script
from benchmarks.gpu.checks import Check
from benchmarks.gpu.speed import Row, rows

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which `make gpu` tries")
def test_without_a_gpu_nothing_is_run_and_the_page_stays_as_it_is(capsys):
    before = script.PAGE.read_text()
    assert script.main([]) == 0
    assert capsys.readouterr().out == "no GPU: nothing was run\n"
    assert script.PAGE.read_text() == before
    assert "It was never run on a GPU" in before


def test_results_take_the_place_of_the_pages_last_section(tmp_path):
    page = tmp_path / "gpu.md"
    page.write_text(f"# On a GPU\n\nwords\n\n{script.RESULTS}\nold results\n")
    found = [
        Check("it holds", True, "well"),
        Check("this too", False, "it does not"),
        Check("that", None, "no way"),
    ]
    timed = [
        Row("a step", 128, "blocks", 1234.5, 0.4567),
        Row("another", 256, "no", why_not="no time was left"),
    ]
    script.write(page, CPU, 1, found, timed)
    text = page.read_text()
    assert text.startswith("# On a GPU\n\nwords\n\n")
    assert "old results" not in text
    assert "| it holds | yes | well |" in text
    assert "| this too | NO | it does not |" in text
    assert "| that | not tried | no way |" in text
    assert "| a step | 128 | blocks | 1,234 | 45.7 % |" in text
    assert "| another | 256 | no | no time was left | |" in text


def test_after_the_deadline_rows_are_named_and_not_measured():
    found = list(rows(CPU, 0.0, tiny=True))
    assert {row.why_not for row in found} == {"no time was left"}
    assert len(found) == 6


@pytest.mark.slow
def test_the_whole_script_runs_in_miniature(tmp_path: Path):
    page = tmp_path / "gpu.md"
    page.write_text(script.PAGE.read_text())
    assert script.main(["--tiny", "--page", str(page)]) == 0
    assert "a CPU, in miniature" in page.read_text()
