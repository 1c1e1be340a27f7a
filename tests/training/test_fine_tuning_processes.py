"""Two processes train frozen models and adapters as one does, and agree on an automatic batch size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.publishable_folder import make_folder
from tests.helpers.runs import small_run, weights
from tests.training.test_distributed import SGD, in_processes


@pytest.mark.slow
def test_two_processes_train_frozen_models_and_adapters_as_one_does(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "base", "test_vit")
    start = {**SGD, "model": f"local-dir:{base}", "pretrained": True, "val_interval": 0}
    runs = {"freeze": {**start, "freeze": 3, "head_lr": 0.2}, "lora": {**start, "lora": 2, "method": "vanilla"}}
    split = {"batch_size": 4, "accumulation_steps": 2}
    auto = {**start, "output_dir": tmp_path / "auto", "batch_size": "auto", "max_train_images": 40}
    in_processes(2, tmp_path, [{"output_dir": tmp_path / name, **s, **split} for name, s in runs.items()] + [auto])
    for name, settings in runs.items():
        small_run(tmp_path / f"{name}_one", batch_size=16, **settings)
        one, two = weights(tmp_path / f"{name}_one"), weights(tmp_path / name)
        for key, expected in one.items():
            torch.testing.assert_close(two[key], expected, rtol=1e-3, atol=1e-5, msg=f"{name}: {key}")
    recorded = yaml.safe_load((tmp_path / "auto" / "train_config.yaml").read_text())
    assert recorded["batch_size"] == 16, "20 images a process"
