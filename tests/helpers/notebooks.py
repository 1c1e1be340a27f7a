"""Run the notebooks of docs/; as a command, store their outputs: python -m tests.helpers.notebooks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.helpers.documents import ROOT

FOLDER = ROOT / "docs" / "notebooks"


def stored(name: str) -> Any:
    """Read a notebook."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def run(name: str, folder: Path) -> Any:
    """Execute a notebook in a kernel of its own, offline, and return it with its outputs."""
    notebook = stored(name)
    environment = {
        **{**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder), "TMPDIR": str(folder)},
        **{"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore:IProgress not found"},
    }
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=540, coalesce_streams=True, record_timing=False, resources=resources)
    client.execute(env=environment)
    return notebook


def main() -> None:
    """Store the outputs of all notebooks."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(run(path.stem, Path(folder)), path)


if __name__ == "__main__":
    main()
