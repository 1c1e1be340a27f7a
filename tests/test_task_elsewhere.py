"""The examples of docs/losses.md: a loss of your own, and SSIATask in other trainers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

from ssia_zoo.loss import SSIAConfig, check
from ssia_zoo.task import AuxiliaryTask, SSIATask
from tests.helpers.runs import ROOT, small_run

CLASSES = 10


def example(heading: str) -> str:
    """Return the Python code below a heading of the page."""
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    _, _, below = page.partition(f"# {heading}\n")
    found = re.search(r"```python\n(.*?)^```", below, re.M | re.S)
    assert found is not None, heading
    return found[1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(example("Write a loss"))
    yield tmp_path
    sys.modules.pop("my_losses", None)


@pytest.fixture
def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 64, 64, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(12) % CLASSES), batch_size=4)


def run(heading: str, loader: DataLoader[Any]) -> dict[str, Any]:
    """Run an example; count the steps of its task and return its variables."""
    progress: list[float] = []
    forward = SSIATask.forward

    def counted(self: SSIATask, *arguments: Any, **named: Any) -> dict[str, torch.Tensor]:
        progress.append(self.progress)
        return forward(self, *arguments, **named)

    torch.manual_seed(0)
    variables: dict[str, Any] = {"loader": loader, "__name__": "example"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SSIATask, "forward", counted)
        exec(compile(example(heading), heading, "exec"), variables)
    assert progress == sorted(progress)
    assert progress[0] == 0 < progress[-1] < 1, "labels are handed over"
    return variables


def assert_trained(model: Any) -> None:
    torch.manual_seed(0)
    vanilla = timm.create_model("test_resnet", num_classes=CLASSES)
    before, after = vanilla.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert not torch.equal(before["fc.weight"], after["fc.weight"].cpu())


def test_the_loss_of_30_lines_keeps_the_contract_and_trains(here: Path, tmp_path: Path) -> None:
    lines = example("Write a loss").splitlines()
    body = lines[next(i for i, line in enumerate(lines) if line.startswith("class ")) :]
    assert len(body) <= 30
    variables: dict[str, Any] = {}
    sys.path.append(str(here))
    exec(example("Check it"), variables)
    assert check(variables["Agreement"]).passed
    small_run(tmp_path / "run", method="my_losses:Agreement", method_kwargs="temperature=4.0", max_steps=1)
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    task = AuxiliaryTask(model, variables["Agreement"], lambda_at=lambda progress: 1.0, input_size=(3, 64, 64))
    assert "agreement" in task(torch.zeros(2, 3, 64, 64), torch.tensor([1, 2]))


def test_it_trains_in_a_plain_loop(loader: DataLoader[Any]) -> None:
    run("A plain loop", loader)
    saved = timm.create_model("test_resnet", num_classes=CLASSES, checkpoint_path="model.pth")
    assert_trained(saved)


def test_it_trains_in_the_calls_of_timms_train_py(loader: DataLoader[Any]) -> None:
    variables = run("timm's train.py", loader)
    assert_trained(variables["model"])
    assert variables["checkpoint"].keys() == {"state_dict", "task_state", "state_dict_ema", "task_state_ema"}


def test_it_trains_in_lightning(loader: DataLoader[Any]) -> None:
    pytest.importorskip("lightning")
    assert_trained(run("Lightning", loader)["model"])


def test_it_trains_in_transformers_trainer(loader: DataLoader[Any]) -> None:
    pytest.importorskip("transformers")
    run("transformers' Trainer", loader)
    saved = timm.create_model("test_resnet", num_classes=CLASSES, checkpoint_path="model.pth")
    assert_trained(saved)


@pytest.mark.parametrize(
    ("choices", "warned"), [({}, 1), ({"handover": False}, 0), ({"handover": False, "schedule": "cosine"}, 1)]
)
def test_a_loop_that_does_not_set_the_progress_is_warned_once(
    choices: dict[str, Any], warned: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssia_zoo.task._CALLS", 2)
    task = SSIATask(
        timm.create_model("test_resnet", num_classes=CLASSES), SSIAConfig(**choices), input_size=(3, 32, 32)
    )
    batch = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    with torch.no_grad():
        for _ in range(4):
            task(*batch)
    assert [record.message.split(":")[0] for record in caplog.records] == warned * [
        "2 training steps with task.progress = 0"
    ]
