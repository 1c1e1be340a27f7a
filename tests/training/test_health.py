"""Steps that are not finite are counted on the device, and read by the host when they are due."""

from __future__ import annotations

import math

import pytest
import torch

from ssia_zoo.training.checkpoint import TrainState
from ssia_zoo.training.health import Reading, StepHealth

CPU = torch.device("cpu")


def test_counts_go_on_from_those_of_the_state() -> None:
    state = TrainState()
    state.skipped, state.skipped_in_a_row = 5, 2
    health = StepHealth(state, CPU, processes=1)
    finite = torch.tensor(1.0)
    assert bool(health.end_step(torch.tensor(math.nan), 0, step=7))
    assert list(health.read()) == [Reading(7, 0, 6, 3)]
    assert not bool(health.end_step(finite, 0, step=8))
    assert list(health.read()) == [Reading(8, 0, 6, 0)]


def test_one_lost_loss_of_a_step_decides_for_that_step_alone() -> None:
    health = StepHealth(TrainState(), CPU, processes=1)
    decisions = []
    for losses in ((1.0, 2.0), (math.inf, 1.0), (1.0, 1.0)):
        for loss in losses:
            health.add_loss(torch.tensor(loss))
        decisions.append(bool(health.end_step(torch.tensor(1.0), 0, step=0)))
    assert decisions == [False, True, False]


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_step_is_read_after_its_delay_or_when_the_host_waits(delay: int) -> None:
    health = StepHealth(TrainState(), CPU, processes=1, delay=delay)
    for step in range(5):
        health.end_step(torch.tensor(math.nan if step == 0 else 1.0), 15 if step == 1 else 0, step)
        assert [reading.step for reading in health.read()] == ([step - delay] if step >= delay else [])
        assert health.stop_signal == (15 if step >= delay + 1 else 0)
    assert [reading.step for reading in health.read(wait=True)] == list(range(5 - delay, 5))
    assert health.stop_signal == 15
