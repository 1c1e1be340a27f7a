"""The notebooks of docs/ run from the first cell to the last, and give the outputs that are stored in them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.helpers.notebooks import FOLDER, run, stored

NAMES = ("create", "finetune", "loss")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All notebooks, executed; two at a time, since each starts a Python of its own."""
    folders = [tmp_path_factory.mktemp(name) for name in NAMES]
    with ThreadPoolExecutor(2) as threads:
        return dict(zip(NAMES, threads.map(run, NAMES, folders), strict=True))


def outputs(notebook: Any) -> Iterator[tuple[str, Any]]:
    """Yield the id of a cell and one of its outputs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield cell.id, output


def text(output: Any) -> str:
    return str(output.text if output.output_type == "stream" else output.data.get("text/plain", ""))


def pixels(output: Any) -> np.ndarray[Any, Any] | None:
    png = output.get("data", {}).get("image/png")
    return png and np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), dtype=float)


def test_every_notebook_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_outputs_are_true(name: str, executed: dict[str, Any]) -> None:
    then, now = list(outputs(stored(name))), list(outputs(executed[name]))
    assert [(cell, output.output_type, output.get("name")) for cell, output in now] == [
        (cell, output.output_type, output.get("name")) for cell, output in then
    ]
    for (cell, before), (_, after) in zip(then, now, strict=True):
        assert NUMBER.sub("#", text(after)) == NUMBER.sub("#", text(before)), cell
        found, recorded = (list(map(float, NUMBER.findall(text(output)))) for output in (after, before))
        assert found == pytest.approx(recorded, rel=0.25, abs=0.02), cell  # another CPU rounds otherwise
        if (picture := pixels(before)) is not None:
            again = pixels(after)
            assert again is not None
            assert again.shape == picture.shape, cell
            assert np.abs(again - picture).mean() < 8, cell


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_warned_of_and_nothing_failed(name: str) -> None:
    for _, output in outputs(stored(name)):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"


@pytest.mark.parametrize("name", NAMES)
def test_links_of_notebooks_lead_somewhere(name: str) -> None:
    prose = "\n".join(cell.source for cell in stored(name).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", prose):
        assert (FOLDER / target).exists(), target
