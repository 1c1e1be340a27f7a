"""Everything that a run writes: its settings, metrics, curves, the model's folder, and what goes to the Hub."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from ssia_zoo.data import ImageData, data_identity
from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.errors import TrainingError
from ssia_zoo.figures import can_draw
from ssia_zoo.hub import BackgroundPusher, check_access
from ssia_zoo.models.card import training_card
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.registry import vanilla_architecture
from ssia_zoo.models.saving import public_model, public_name, write_model_folder
from ssia_zoo.training.checkpoint import (
    check_checkpoint,
    clean_up,
    find_checkpoint,
    save_checkpoint,
    set_aside_later,
)
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.machine import describe_environment
from ssia_zoo.training.methods import RIVALS
from ssia_zoo.training.metrics import Records, draw_curves, read_records
from ssia_zoo.training.resuming import PREPROCESSING, check_resumed

_log = logging.getLogger(__name__)

_CURVES_SECONDS = 60.0  # drawing takes half a second
_SETTINGS = "train_config.yaml"
_PUSH_SECONDS = 1800.0  # a Hub that accepts a connection and then is silent must not hold the run for ever


class RunFolder:
    """The output folder of one run; only the main process writes.

    Args:
        config: Settings.
        accelerator: Knows which process this is.

    Raises:
        TrainingError: If the folder holds other things, another run, or this one with other settings.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config = config
        self.path = Path(config.output_dir)
        self.checkpoints = self.path / "checkpoints"
        self.is_main = accelerator.is_main_process
        self._environment = describe_environment(accelerator)
        self._pusher: BackgroundPusher | None = None
        self._lock = FileLock(self.path / ".lock", timeout=0)
        claimed: list[Any] = [None]
        if self.is_main:
            try:
                claimed = [self._claim(accelerator.num_processes)]
            except TrainingError as error:
                claimed = [error]
        broadcast_object_list(claimed)  # or the others would wait for a main process that has given up
        if isinstance(claimed[0], TrainingError):
            raise claimed[0] if self.is_main else SystemExit(1)  # one process tells it
        self.resume_from: Path | None
        self.resume_from, self._manifest = claimed[0]
        self._kept_records: int = self._manifest["records"] if self._manifest else 0

    def _claim(self, processes: int) -> tuple[Path | None, dict[str, Any] | None]:
        """Make the folder if need be, see that it is free, and find what to resume from and its manifest."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise TrainingError(
                f"--output-dir {self.path}: another run writes there; wait or choose a new folder"
            ) from error
        except OSError as error:
            raise TrainingError(
                f"--output-dir {self.path}: cannot be written ({error.strerror}); choose another"
            ) from error
        try:
            self._check_content()
            found = find_checkpoint(self.config.resume, self.checkpoints) if self.config.resume else None
            if found is not None:
                check_checkpoint(found[1], self.config.experiment(), processes, self._facts()["environment"])
            self._connect()
        except BaseException:
            self.release()
            raise
        return found or (None, None)

    def _check_content(self) -> None:
        others = [path for path in self.path.iterdir() if path.name != ".lock"]
        holds_run = (self.path / _SETTINGS).exists()
        if (others and not holds_run) or (holds_run and not self.config.resume):
            raise TrainingError(
                f"--output-dir {self.path}: holds a run; continue it with --resume auto, or choose a new folder"
                if holds_run
                else f"--output-dir {self.path}: is not empty and holds no run; choose a new folder"
            )

    def release(self) -> None:
        """Let others write to the folder."""
        if self._lock.is_locked:
            # In this order: a run that came in between would hold a file that is deleted, and the next one another.
            (self.path / ".lock").unlink(missing_ok=True)
            self._lock.release()

    def _connect(self) -> None:
        """Check the Hub early: a wrong token is better known before the training than after it."""
        if not (self.config.push_to_hub and self.config.hub_model_id):
            return
        warning = check_access(self.config.hub_model_id, private=self.config.hub_private, folder=self.path)
        if warning:
            _log.warning("%s", warning)
        if self.config.push_every:
            self._pusher = BackgroundPusher(self.path, self.config.hub_model_id, private=self.config.hub_private)

    def describe(self, data: ImageData, preprocessing: Preprocessing) -> None:
        """Take what cards, config.json and checkpoints will say of the data and its preprocessing.

        Raises:
            TrainingError: If the run resumed had other data or another preprocessing.
        """
        self._data = data
        self._preprocessing = preprocessing
        own = {name: getattr(preprocessing, name) for name in PREPROCESSING}
        self.config = replace(self.config, **own)
        self._identity = data_identity(data)
        if self._manifest is not None:
            check_resumed(self._manifest, self.config.experiment(), self._identity)

    def image_counts(self) -> dict[str, int]:
        """How many images the metrics are of, and how many could not be read, so far."""
        train, evaluated = len(self._data.unreadable_train), len(self._data.unreadable_eval)
        images = len(self._data.eval) - evaluated
        return {"images": images, "unreadable_train": train, "unreadable_eval": evaluated}

    def begin(self, step: int) -> None:
        """Write the settings; start the metrics, or take them up again at a checkpoint's step."""
        if self.is_main:
            self._write(_SETTINGS, self.config.to_yaml())
            set_aside_later(self.checkpoints, step)
            clean_up(self.checkpoints)
            self._drawn = time.monotonic()
            self._records = Records(self.path / "metrics.jsonl", keep=self._kept_records)
            if not can_draw():
                _log.warning("curves.png is not drawn without matplotlib; run: pip install 'ssia-zoo[plots]'")

    def save_checkpoint(self, accelerator: Accelerator, step: int) -> None:
        """Write a checkpoint, and before it everything that has been recorded; every process must call this."""
        facts = {**self._facts(), "data": self._identity}
        if self.is_main:
            facts["records"] = self._records.flush()
        save_checkpoint(accelerator, self.checkpoints, step, self.config.keep_checkpoints, facts)

    def _facts(self) -> dict[str, Any]:
        """What a checkpoint states of its run."""
        environment = {**self._environment, "threads": str(torch.get_num_threads())}
        return {"experiment": self.config.experiment(), "environment": environment}

    def record(self, kind: str, **values: Any) -> None:
        """Write one line of metrics; curves.png follows each evaluation, and once a minute."""
        if not self.is_main:
            return
        self._records.append({"kind": kind, **values})
        if can_draw() and (kind == "eval" or time.monotonic() - self._drawn > _CURVES_SECONDS):
            self._drawn = time.monotonic()
            draw_curves({self.config.method: read_records(self._records.path)}, self.path / "curves.png")

    def save_model(self, student: TimmModel, metrics: dict[str, float]) -> None:
        """Write the model's folder: config.json, model.safetensors, README.md."""
        if not self.is_main:
            return
        config, data = self.config, self._data
        rival = RIVALS.get(config.method)
        unused = {"ssia", "rival"} - {"rival" if rival else config.method}
        settings = {name: value for name, value in config.experiment().items() if name not in unused}
        settings |= {"dataset": public_name(config.dataset), "model": public_model(config.model)}
        architecture = vanilla_architecture(str(student.pretrained_cfg["architecture"]))
        counts = self.image_counts()
        results = {name: float(value) for name, value in metrics.items()}
        write_model_folder(
            student,
            self.path,
            architecture=architecture,
            label_names=data.label_names,
            preprocessing=self._preprocessing,
            metadata={
                "method": config.method,
                "training": settings,
                "evaluated_on": data.eval_name,
                "evaluated_images": counts["images"],
                "unreadable_images": {"train": counts["unreadable_train"], "eval": counts["unreadable_eval"]},
                "metrics": results,
                "environment": self._environment,
            },
            card=training_card(
                architecture=architecture,
                method=config.method,
                objective=rival.source if rival else None,
                settings=settings,
                metrics=results,
                eval_name=data.eval_name,
                counts=counts,
                environment=self._environment,
                base_model=str(settings["model"]).split(":", 1)[-1] if config.pretrained else None,
                repo_id=config.hub_model_id,
            ),
        )

    def push(self, message: str) -> None:
        """Start to publish what `save_model` wrote, without waiting for it."""
        if self._pusher is not None:
            self._pusher.push(message)

    def finish(self) -> None:
        """Publish the result, if asked; the Hub's failures are told and never raised: the run itself is done."""
        if not (self.is_main and self.config.push_to_hub and self.config.hub_model_id):
            return
        if self._pusher is None:
            self._pusher = BackgroundPusher(self.path, self.config.hub_model_id, private=self.config.hub_private)
        self._pusher.push("Upload the weights of a finished run")
        failures = self._pusher.close(timeout=_PUSH_SECONDS)
        if not failures:
            _log.info("published: %s", self.config.hub_model_id)

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path / name)


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Settings as trackers take them: one level, plain values."""
    settings = asdict(config)
    for group in ("ssia", "rival"):
        settings |= {f"{group}.{name}": value for name, value in settings.pop(group).items()}
    return {k: v if isinstance(v, int | float | str | bool) else json.dumps(v) for k, v in settings.items()}
