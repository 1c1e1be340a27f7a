"""Run the commands of the project's pages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def blocks(page: str) -> dict[str, str]:
    """Return the blocks of commands that the page marks with `<!-- test: NAME -->`, by name."""
    return dict(re.findall(r"<!-- test: ([\w-]+) -->\n```(?:bash|python)\n(.*?)```", page, re.DOTALL))


def unmarked_blocks(page: str) -> list[str]:
    """Return the blocks of commands without such a mark."""
    marked = blocks(page).values()
    return [block for block in re.findall(r"```(?:bash|python)\n(.*?)```", page, re.DOTALL) if block not in marked]


def bash(script: str, cwd: Path, **variables: str) -> str:
    """Run a block as a user would, offline, with this environment's commands first in the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}
    environment["ACCELERATE_USE_CPU"] = "true"
    return _run(["bash", "-euo", "pipefail", "-c", script], cwd, environment)


def python(script: str, cwd: Path) -> str:
    """Run a block of Python, offline."""
    return _run([sys.executable, "-c", script], cwd, {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})


def _run(command: list[str], cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
