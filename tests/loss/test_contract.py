"""`check`: the losses of this package keep the contract, and losses that break a clause are named with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss import AuxiliaryLoss, BYOTLoss, DKSLoss, DSNLoss, SSIAConfig, SSIALoss, check
from ssia_zoo.loss.objectives import RIVALS
from tests.helpers import broken_losses as broken

SIGNALS = SSIAConfig(semantic=1, channel=1, spatial=1, labels=0)
OURS: dict[str, tuple[type[AuxiliaryLoss], dict[str, Any]]] = {
    **{name: (loss, {}) for name, loss in RIVALS.items()},
    "byot convolutional": (BYOTLoss, {"heads": "convolutional"}),
    "dks convolutional": (DKSLoss, {"heads": "convolutional"}),
    "ssia": (SSIALoss, {}),
    "ssia, all signals": (SSIALoss, {"config": SIGNALS}),
    "ssia, several labels": (SSIALoss, {"multi_label": True}),
    "of another package": (broken.Good, {"temperature": 2.0}),
}

BROKEN: dict[type[AuxiliaryLoss], tuple[str, str]] = {
    broken.WithoutDefaults: ("construction", "ValueError: there is nothing to build (broken_losses.py, line "),
    broken.DrawsAtConstruction: ("random state", "construction advances a global random state"),
    broken.DrawsInForward: ("random state", "forward advances a global random state"),
    broken.NotScalar: ("scalars", "good is a tensor of shape (2,); expected a scalar"),
    broken.NotFinite: ("scalars", "good is -inf for zero feature maps"),
    broken.InHalfPrecision: ("autocast", "good is in bfloat16; expected float32"),
    broken.TeachesTheTeacher: ("gradients", "reaches the final logits, which gradient_to ('lower',) does not name"),
    broken.TeachesNobody: ("gradients", "reaches nothing of the network"),
    broken.UnusedHead: ("heads", "parameter unused gets no gradient"),
    broken.AcrossImages: ("images", "use no statistics across images"),
    broken.SumOverImages: ("images", "and means over images"),
    broken.ChangesFeatures: ("lambda 0", "differs from that of training without the loss"),
    broken.InexactUnderAutocast: ("autocast", "under autocast, but"),
    broken.NeedsPositions: ("one position", "not finite for stages [(8, 8, 8), (12, 4, 4), (16, 1, 1)] and 1 images"),
    broken.BreaksTheGraph: ("compile", "raises "),
}


@pytest.mark.parametrize(("loss", "settings"), OURS.values(), ids=OURS)
def test_the_losses_of_this_package_keep_every_clause(loss: type[AuxiliaryLoss], settings: dict[str, Any]) -> None:
    report = check(loss, **settings)
    assert report.passed, str(report)
    report.raise_for_failures()
    assert str(report).endswith(f"{loss.__module__}:{loss.__name__}: all clauses kept")


@pytest.mark.parametrize(("loss", "expected"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_clause_is_named(loss: type[AuxiliaryLoss], expected: tuple[str, str]) -> None:
    clause, text = expected
    report = check(loss)
    assert clause in report.failures, str(report)
    assert text in report.failures[clause]
    with pytest.raises(ConfigError, match=rf"{loss.__name__} breaks the contract of AuxiliaryLoss: [^\n]*{clause}: "):
        report.raise_for_failures()


def test_every_clause_but_that_of_two_processes_has_a_loss_that_breaks_it() -> None:
    assert {clause for clause, _ in BROKEN.values()} == set(check(broken.Good).clauses)


def test_checking_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    check(broken.DrawsInForward)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_loss_or_no_setting_is_refused() -> None:
    wrong: Any = torch.nn.Linear
    with pytest.raises(ConfigError, match=r"is not a subclass of ssia_zoo\.loss\.AuxiliaryLoss"):
        check(wrong)
    with pytest.raises(ConfigError, match=r"`method_kwargs` hiden: is not a setting of .*; did you mean hidden\?"):
        check(DSNLoss, hiden=3)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [broken.Good, *RIVALS.values()])
def test_two_processes_give_the_gradients_of_one(loss: type[AuxiliaryLoss]) -> None:
    assert check(loss, processes=True).clauses["two processes"] is None


@pytest.mark.slow
def test_two_processes_that_disagree_are_noticed() -> None:
    assert "is not that of one process" in str(check(broken.OtherOnRank1, processes=True).failures["two processes"])
    assert "Expected to have finished reduction" in str(
        check(broken.UnusedHead, processes=True).failures["two processes"]
    )
