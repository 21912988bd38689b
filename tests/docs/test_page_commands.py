"""The commands of the pages that have no test of their own, as a reader types them: one page after the other.

In one folder, as the pages assume: what an earlier page trained, later ones find. Experiments of more than a
minute are made small by `--smoke`; a server is asked for its first page and stopped.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from ekd_train.data.prepare import prepare

pytestmark = [pytest.mark.slow, pytest.mark.by_hand, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
PAGES = (
    "start",
    "reuse",
    "choosing",
    "evaluation",
    "methods",
    "tutorial_search",
    "students",
    "own_code",
    "keys",
)
INSTEAD = {"make demo": "ekd run digits"}  # which is what it runs once `.venv` is there
LONG = ("fashion_mnist", "lora.yaml", "own_code.yaml", "pruned_mixed_teachers.yaml")


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    return [re.split("  # | > ", line)[0].strip() for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    (folder / "docs").symlink_to(ROOT / "docs")
    prepare("fashion_mnist", folder / "data")
    return folder


@pytest.fixture(scope="module")
def environment(folder):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "OMP_NUM_THREADS": "1", "HOME": str(folder)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(words: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-3000:]}"
    return done.stdout


def look(words: list[str], folder: Path, environment: dict[str, str], port: int) -> None:
    """Starts the server, waits for its page, stops it and what it started."""
    server = subprocess.Popen(
        [*words, "--port", str(port)],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            assert server.poll() is None
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
                    assert b"MLflow" in page.read()
                return
            except OSError:
                time.sleep(1)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_does_its_work(page, folder, environment):
    for command in commands(page):
        words = shlex.split(INSTEAD.get(command, command))
        if words[0] == "mlflow":
            look(words, folder, environment, free_port())
            continue
        if words[1] == "run" and any(long in word for long in LONG for word in words):
            words.append("--smoke")
        began = time.monotonic()
        printed = run(words, folder, environment)
        print(f"{time.monotonic() - began:.0f} s: {command}")
        if words[1] == "run":
            assert printed.splitlines()[-1].startswith("models:/ekd-")
        if command.startswith("ekd plan digits --set distillation.temperature=2"):
            assert "reused" in printed
