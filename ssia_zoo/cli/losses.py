"""Command on losses: `check-loss`."""

from __future__ import annotations

from typing import Annotated

import tyro

from ssia_zoo.cli.console import DONE, FAILED, UsageError, print_json

_Loss = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PACKAGE.MODULE:CLASS")]


def check_loss(loss: _Loss, method_kwargs: tuple[str, ...] = (), processes: bool = False, json: bool = False) -> int:
    """Check that a loss can be trained with: gradients, autocast, torch.compile and more.

    For example:
      ssia-zoo check-loss my_losses:Mine
      ssia-zoo check-loss my_losses:Mine --method-kwargs temperature=4.0 --processes

    Args:
        loss: A class in an installed package, on PYTHONPATH or in the current folder, or a name of --method.
        method_kwargs: Arguments of its constructor, key=value.
        processes: Also train in two processes, which takes some seconds.
        json: Print one JSON document.
    """
    from ssia_zoo.loss import check
    from ssia_zoo.loss.objectives import RIVALS, check_method_name, find_objective
    from ssia_zoo.training.config import read_pairs

    try:
        keywords = read_pairs(list(method_kwargs))
    except ValueError as error:
        raise UsageError(f"check-loss: --method-kwargs {error}") from error
    if check_method_name(loss) in ("ssia", "vanilla", "logit-kd", "feature-kd"):
        raise UsageError(f"check-loss: {loss} has settings or a task of its own; expected a class or a rival")
    report = check(RIVALS[loss] if loss in RIVALS else find_objective(loss).loss, processes=processes, **keywords)
    if json:
        print_json({"loss": report.loss, "passed": report.passed, "clauses": dict(report.clauses)})
    else:
        print(report)
    return DONE if report.passed else FAILED
