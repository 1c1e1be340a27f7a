from __future__ import annotations

import math
from pathlib import Path

import pytest

from ssia_zoo.errors import TrainingError
from tests.helpers.runs import small_run


def test_a_model_whose_loss_is_not_finite_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = {"top1": 10.0, "top5": 50.0, "loss": math.nan}
    monkeypatch.setattr("ssia_zoo.training.loop.evaluate", lambda *_, **__: evaluated)
    with pytest.raises(TrainingError, match="the evaluation's loss is nan: the model is not saved; lower `lr`"):
        small_run(tmp_path / "run", max_steps=1)
    assert not (tmp_path / "run" / "model.safetensors").exists()
