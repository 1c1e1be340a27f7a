"""The files of docs/launch/ and the ways to start training, as far as one machine without a GPU can run them."""

from __future__ import annotations

import configparser
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tests.helpers.hub_server import HubServer
from tests.helpers.runs import ROOT, TRAIN, environment, flags, run, same_weights, small_run

LAUNCH = ROOT / "docs" / "launch"
HF_JOB = LAUNCH / "hf_job.py"


def processes_of(folder: Path) -> str:
    described: dict[str, dict[str, dict[str, str]]] = json.loads((folder / "config.json").read_text())
    return described["ssia"]["environment"]["processes"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_takes_every_field_of_a_config(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes == (1 if config.use_cpu else 8)


@pytest.mark.parametrize("path", [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")], ids=lambda path: path.name)
def test_scripts_have_no_error_of_syntax(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], capture_output=True, check=False).returncode == 0


def test_a_job_needs_this_package_and_its_python() -> None:
    block = re.search(r"^# /// script$\n(?P<toml>(?:^#.*$\n)+?)^# ///$", HF_JOB.read_text(), re.MULTILINE)
    assert block is not None
    header = tomllib.loads("".join(line[2:] + "\n" for line in block["toml"].splitlines()))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert header == {
        "requires-python": setup["options"]["python_requires"],
        "dependencies": [setup["metadata"]["name"]],
    }


@pytest.mark.slow
def test_a_job_trains_and_publishes(hub: HubServer, tmp_path: Path) -> None:
    command = [sys.executable, HF_JOB, *flags(max_steps=2), "--hub-model-id", "org/model"]
    settings = {**environment(), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_good", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"config.json", "model.safetensors", "README.md"} <= set(hub.repos["org/model"].resolve("main").files)


def test_accelerate_launch_runs_the_script_as_the_config_says(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", LAUNCH / "one_node_cpu.yaml"]
    done = run(*launch, TRAIN, *flags(output_dir=tmp_path / "run", max_steps=2))
    assert done.returncode == 0, done.stderr
    assert processes_of(tmp_path / "run") == "1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "launch",
    [
        [sys.executable, "-m"],
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", LAUNCH / "one_node_cpu.yaml", "-m"],
    ],
    ids=["python", "accelerate"],
)
def test_the_module_trains_as_the_script_does(tmp_path: Path, launch: list[object]) -> None:
    done = run(*launch, "ssia_zoo.training", *flags(output_dir=tmp_path / "run", max_steps=2))
    assert done.returncode == 0, done.stderr
    small_run(tmp_path / "here", max_steps=2)
    assert same_weights(tmp_path / "run", tmp_path / "here")


@pytest.mark.slow
def test_two_nodes_find_each_other_and_train_one_model(tmp_path: Path) -> None:
    variables = {
        **environment(),
        "HEAD": "127.0.0.1",
        "PORT": str(free_port()),
        "NODES": "2",
        "PROCESSES": "1",
        "RUN": tmp_path.name,
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
    }
    words = [str(LAUNCH / "several_nodes.sh"), *flags(output_dir=tmp_path / "run", max_steps=2)]
    nodes = [
        subprocess.Popen(words, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for node in nodes:
            _, errors = node.communicate(timeout=500)
            assert node.returncode == 0, errors[-3000:]
    finally:
        for node in nodes:
            node.kill()
    assert processes_of(tmp_path / "run") == "2"


def slurm(folder: Path, **srun: str) -> subprocess.CompletedProcess[str]:
    """Run the batch script with stand-ins for srun and scontrol that log their arguments."""
    commands = {
        "srun": srun.get("srun", 'SLURM_PROCID=0 SLURM_LOCALID=0 "$@"'),
        "scontrol": f'echo "$@" >> {folder}/asked; if [ "$1" = show ]; then printf "127.0.0.1\\nother\\n"; fi',
    }
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(stat.S_IRWXU)
    variables = {
        **environment(),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_JOB_ID": str(free_port() - 20000),
        "SLURM_NTASKS": "1",
    }
    words = ["bash", LAUNCH / "slurm.sbatch", *flags(output_dir=folder / "run", max_steps=1)]
    return subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
def test_the_slurm_script_trains_and_is_done(tmp_path: Path) -> None:
    done = slurm(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert "requeue" not in (tmp_path / "asked").read_text()


def test_the_slurm_script_requeues_a_run_that_its_time_limit_stopped_and_no_other(tmp_path: Path) -> None:
    for status, requeued in ((1, False), (143, False), (138, True)):
        assert slurm(tmp_path, srun=f"exit {status}").returncode == status
        assert ("requeue" in (tmp_path / "asked").read_text()) == requeued
