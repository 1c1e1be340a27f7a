"""Batches reach the training steps in order and unchanged."""

from __future__ import annotations

import torch

from ssia_zoo.training.batches import overlapped


def test_on_a_cpu_batches_pass_as_they_are() -> None:
    batches = [(torch.zeros(1),), (torch.ones(1),)]
    assert all(one is other for one, other in zip(overlapped(batches, torch.device("cpu")), batches, strict=True))
