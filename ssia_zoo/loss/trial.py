"""A small network, random tensors and a second process, on which `ssia_zoo.loss.contract` tries a loss."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from ssia_zoo.loss.base import AuxiliaryLoss, StageShape
from ssia_zoo.loss.objectives import describe_error

SHAPES: list[StageShape] = [(8, 8, 8), (12, 4, 4), (16, 2, 2)]
CLASSES = 5
BATCH = 4

Terms = dict[str, Tensor]
Inputs = tuple[list[Tensor], Tensor, Tensor]
"""Feature maps, logits and labels."""


def random_inputs(shapes: Sequence[StageShape] = SHAPES, batch: int = BATCH) -> Inputs:
    """Return feature maps of different images, logits and labels; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    features = []
    for shape in shapes:
        means = torch.randn(batch, shape[0], 1, 1, generator=generator)
        features.append(means + torch.randn(batch, *shape, generator=generator))
    logits = torch.randn(batch, CLASSES, generator=generator)
    return features, logits, torch.randint(CLASSES, (batch,), generator=generator)


def images_and_labels() -> tuple[Tensor, Tensor]:
    """Return a batch for `Network`; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, *SHAPES[0][1:], generator=generator)
    return images, torch.randint(CLASSES, (BATCH,), generator=generator)


def terms_of(loss: AuxiliaryLoss, features: Sequence[Tensor], logits: Tensor, labels: Tensor) -> Terms:
    """Call a loss, with labels only if it uses them."""
    label_loss = (lambda prediction: F.cross_entropy(prediction, labels),) if loss.uses_labels else ()
    terms: Terms = loss(features, logits, *label_loss)
    return terms


def random_states() -> tuple[bytes, object, bytes]:
    """Return the global random states of torch, Python and numpy."""
    numpy: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy[1].tobytes()


class Network(nn.Module):
    """Three convolutions with the stages `SHAPES`, dropout and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(shape[0] for shape in SHAPES)]
        self.stages = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2 if i else 1, padding=1) for i in range(len(SHAPES))
        )
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return feature maps and logits."""
        features = []
        for stage in self.stages:
            x = F.relu(stage(x))
            features.append(x)
        return features, self.classifier(self.dropout(x.mean(dim=(2, 3))))


class Both(nn.Module):
    """Network and loss in one module, as training needs them."""

    def __init__(self, network: Network, loss: AuxiliaryLoss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Terms]:
        """Return logits and terms."""
        features, logits = self.network(images)
        return logits, terms_of(self.loss, features, logits, labels)


def build_network() -> Network:
    """Build a network; the same weights at each call."""
    torch.manual_seed(1)
    return Network()


def train(loss: AuxiliaryLoss | None) -> dict[str, Tensor]:
    """Train for three steps, with lambda 0 if there is a loss; return the network's weights."""
    network = build_network()
    parameters = [*network.parameters(), *([] if loss is None else loss.parameters())]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    images, labels = images_and_labels()
    torch.manual_seed(2)
    for _ in range(3):
        optimizer.zero_grad()
        features, logits = network(images)
        total = F.cross_entropy(logits, labels)
        if loss is not None:
            total = total + 0.0 * terms_of(loss, features, logits, labels)[loss.name]
        torch.autograd.backward(total)
        optimizer.step()
    return dict(network.state_dict())


# --- Two processes ----------------------------------------------------------------------------------------------------


def gradients_in_two_processes(loss: type[AuxiliaryLoss], keywords: Mapping[str, Any]) -> str | None:
    """Compare the gradients of two processes (DDP over gloo) with those of one; return what is wrong, or None."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            spawn(_train_half, args=(loss, dict(keywords), folder), nprocs=2)  # type: ignore[no-untyped-call]
        except Exception as error:  # a class that cannot be pickled, or imported again
            return f"a process ended: {describe_error(error)}; the class must be importable by its module's name"
        found = [report.read_text(encoding="utf-8") for report in sorted(Path(folder).glob("rank*"))]
    return next((text for text in found if text), None)


def _train_half(rank: int, loss: type[AuxiliaryLoss], keywords: dict[str, Any], folder: str) -> None:
    """Train on half a batch in one of two processes; write what goes wrong to a file."""
    torch.set_num_threads(1)
    report = Path(folder) / f"rank{rank}"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        report.write_text(_compare_gradients(rank, loss, keywords), encoding="utf-8")
    except Exception as error:
        report.write_text(f"raises {describe_error(error)}", encoding="utf-8")
    finally:
        torch.distributed.destroy_process_group()


def _compare_gradients(rank: int, loss: type[AuxiliaryLoss], keywords: dict[str, Any]) -> str:
    torch.manual_seed(3)  # for heads that draw their weights from the global random state
    built = loss(SHAPES, CLASSES, **keywords)
    built.set_progress(0.5)
    module = Both(build_network(), built)
    module.network.eval()  # no dropout
    images, labels = images_and_labels()
    expected = _gradients_of(module, module, images, labels)
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    distributed = nn.parallel.DistributedDataParallel(module)
    for _ in range(2):  # the second forward notices parameters that got no gradient in the first
        actual = _gradients_of(distributed, module, images[half], labels[half])
    for name, gradient in expected.items():
        if not torch.allclose(actual[name], gradient, rtol=1e-3, atol=1e-5):
            return f"the gradient of {name} in two processes is not that of one process with all images"
    return ""


def _gradients_of(call: nn.Module, module: Both, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    logits, terms = call(images, labels)
    torch.autograd.backward(F.cross_entropy(logits, labels) + terms[module.loss.name])
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
