"""Make the run folders beside this file anew, by this version's own commands: `python tests/golden/make.py`.

    unfinished  `ekd run`, killed (-9) in the distillation
    finished    `ekd run`, to its end
    searched    `ekd tune`, to its end
    networks    what they share, from records of format 3 on

Later versions must continue, report, register and export them (tests/orchestrator/pipeline/
test_golden_folders.py), so they are made again only where a format number has changed. Takes about a minute.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
EPOCHS_OF_TRIALS = 2
DROPPED = ("ray", "logs", "tracking", "owner.json", "report.html")
"""What no later start reads, or is of this machine."""


def command(folder: Path, what: str, run_id: str, *more: str) -> subprocess.Popen[str]:
    """`ekd WHAT` on the small experiment, started in `folder`, its runs below `runs`."""
    arguments = [sys.executable, "-m", "orchestrator", what, str(HERE / "golden.yaml"), "--run-id", run_id]
    settings = [part for key in ("cluster.address=local", "storage.uri=runs") for part in ("--set", key)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    return subprocess.Popen(
        [*arguments, *settings, *more], cwd=folder, env=environment, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for it; raises `SystemExit` if it failed."""
    if process.wait():
        raise SystemExit(f"{process.args}: exit status {process.returncode}")


def kill_in_distillation(process: subprocess.Popen[str], run: Path) -> None:
    """Kill it, and all that it has started, once the student has a checkpoint."""
    while not list((run / "checkpoints" / "student").glob("epoch-*.json")):
        if process.poll() is not None:
            raise SystemExit("it ended before it could be killed in the distillation")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def keep(run: Path, place: Path, *, unfinished: bool = False) -> None:
    """Copy `run` to the repository without what is large, of this machine, or not read again."""
    for name in DROPPED if unfinished else (*DROPPED, "checkpoints"):
        path = run / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    for file in run.rglob("*.json"):
        text = file.read_text().replace(str(run.parent), "runs")
        file.write_text(text.replace(str(HERE), HERE.relative_to(HERE.parents[1]).as_posix()))
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(run, place)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    print(f"{place.relative_to(HERE)}: {size / 1000:.0f} kB")


def main() -> None:
    """Make all three."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = folder / "runs"
        kill_in_distillation(command(folder, "run", "unfinished"), runs / "unfinished")
        finish(command(folder, "run", "finished"))
        trials = ["--space", str(HERE / "space.yaml"), "--trials", "2", "--searcher", "grid"]
        short = ["--set", f"student.training.epochs={EPOCHS_OF_TRIALS}"]
        finish(command(folder, "tune", "searched", *trials, *short))
        keep(runs / "unfinished", HERE / "unfinished", unfinished=True)
        keep(runs / "finished", HERE / "finished")
        keep(runs / "searched", HERE / "searched")
        keep(runs / "networks", HERE / "networks")


if __name__ == "__main__":
    main()
