"""Choose weights by their score on the evaluation images: the best evaluation, and early stopping."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ssia_zoo.data import ImageData
from ssia_zoo.data.splits import names_test_split
from ssia_zoo.errors import ConfigError
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.metric_names import main_metric
from ssia_zoo.training.config import TrainConfig

_log = logging.getLogger(__name__)


class Selection:
    """The best evaluation so far and the number of evaluations since; a part of each checkpoint.

    The best is the first with the highest top-1, or mAP for several labels an image. Every process holds the same.

    Args:
        config: `keep_best` and `patience`.
        eval_name: Name of the evaluation images.
    """

    def __init__(self, config: TrainConfig, eval_name: str) -> None:
        self._config = config
        self._eval_name = eval_name
        self.evaluations = 0
        self.since_best = 0
        self.best_epoch = 0
        self.best_metrics: dict[str, float] = {}
        self.best_weights: dict[str, Tensor] = {}
        """on the CPU; empty without `keep_best`"""

    def add(self, metrics: dict[str, float], epoch: int, student: TimmModel) -> None:
        """Add an evaluation, and copy the weights if it is the best so far."""
        self.evaluations += 1
        self.since_best += 1
        main = main_metric(metrics)
        if self.best_metrics and metrics[main] <= self.best_metrics[main]:
            return
        self.since_best, self.best_epoch, self.best_metrics = 0, epoch, dict(metrics)
        if self._config.keep_best:
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}

    @property
    def ended(self) -> bool:
        """Whether `patience` evaluations in a row were not better than the best."""
        return self._config.patience is not None and self.since_best >= self._config.patience

    def describe(self) -> dict[str, Any]:
        """Return how the saved weights were chosen, for config.json and the model card."""
        return {
            "metric": main_metric(self.best_metrics),
            "on": self._eval_name,
            "evaluations": self.evaluations,
            "best_epoch": self.best_epoch,
            "saved": "best" if self._config.keep_best else "last",
            "stopped_early": self.ended,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what is saved."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        vars(self).update(state)


def build_selection(config: TrainConfig, data: ImageData) -> Selection | None:
    """Build the selection that `keep_best` and `patience` ask for, or None.

    Raises:
        ConfigError: The evaluation images are those of a test split.
    """
    if not config.selects:
        return None
    setting = "keep_best" if config.keep_best else "patience"
    tests = [name for name in data.unused_splits if names_test_split(name)]
    if not config.holdout and names_test_split(data.eval_name):
        raise ConfigError(
            f"`{setting}` would choose weights by their score on {data.eval_name!r}, a test split; set `holdout` 0.1, "
            "or `eval_split` to a validation split"
        )
    _log.info(
        "`%s` chooses by the %s on %s, which is biased upwards by that; %s",
        *(setting, "mAP" if data.multi_label else "top-1", data.eval_name),
        f"{', '.join(tests)} is left for ssia-zoo validate --eval-split {tests[0]}"
        if tests
        else "to report an accuracy, evaluate on images used for neither",
    )
    return Selection(config, data.eval_name)
