"""The output folder of a run: its lock, settings, checkpoints, the trained model, and uploads to the Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from torch import Tensor

from ssia_zoo.commands import publish_command
from ssia_zoo.data import ImageData, data_identity
from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.errors import TrainingError
from ssia_zoo.figures import can_draw
from ssia_zoo.files import atomic_write
from ssia_zoo.hub import BackgroundPusher, check_access
from ssia_zoo.hub.files import WEIGHTS
from ssia_zoo.loss import SSIAConfig
from ssia_zoo.models.card import training_card
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.registry import vanilla_architecture
from ssia_zoo.models.saving import public_model, public_name, write_model_folder
from ssia_zoo.training.checkpoint import TrainState, clean_up, find_checkpoint, set_aside_later
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.elastic import describe_change, resume_batch, with_accumulation
from ssia_zoo.training.machine import describe_environment
from ssia_zoo.training.methods import describe_objective, outside_objective
from ssia_zoo.training.metrics import MetricsTracker
from ssia_zoo.training.resuming import PREPROCESSING, check_data, check_processes, check_settings
from ssia_zoo.training.saving import CheckpointSaver
from ssia_zoo.training.selection import Selection
from ssia_zoo.training.snapshot import Checkpointed

_log = logging.getLogger(__name__)

SETTINGS = "train_config.yaml"
"""File of a run's settings in its folder."""

_PUSH_SECONDS = 1800.0  # do not wait forever for a Hub that accepts a connection and never answers


class RunFolder:
    """The output folder of one run; only the main process writes.

    Args:
        config: Settings.
        accelerator: The run's Accelerator.

    Raises:
        TrainingError: If the folder holds other files, another run, or this run with other settings.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config = config
        self._asked = {"ssia": config.ssia, **{name: getattr(config, name) for name in PREPROCESSING}}
        self.path = Path(config.output_dir)
        self.checkpoints = self.path / "checkpoints"
        self.is_main = accelerator.is_main_process
        self._environment = describe_environment(accelerator)
        self.identity: dict[str, Any] = {}
        self.fingerprint: dict[str, str] = {}
        self._pusher: BackgroundPusher | None = None
        self.saver = CheckpointSaver(self.checkpoints, config.keep_checkpoints)
        self._lock = FileLock(self.path / ".lock", timeout=0)
        self.resume_from: Path | None
        self._manifest: dict[str, Any] | None
        self.resume_from, self._manifest = self._in_main_process(self._claim)
        processes = accelerator.num_processes
        try:
            self.batch = resume_batch(config, self._manifest, processes)
        except BaseException:
            self.release()
            raise
        self.config = with_accumulation(config, self.batch, processes)
        accelerator.gradient_accumulation_steps = self.config.batches_per_step

    def _in_main_process(self, action: Callable[[], Any]) -> Any:
        """Return what an action returns in the main process, or raise its error, which one process reports."""
        done: list[Any] = [None]
        if self.is_main:
            try:
                done = [action()]
            except TrainingError as error:
                done = [error]
        broadcast_object_list(done)  # else the other processes would wait for a main process that has given up
        if isinstance(done[0], TrainingError):
            raise done[0] if self.is_main else SystemExit(1)
        return done[0]

    def _claim(self) -> tuple[Path | None, dict[str, Any] | None]:
        """Create and lock the folder, check its content, find the checkpoint to resume from and its manifest."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise TrainingError(
                f"`output_dir` {self.path}: another run is writing to it; wait, or choose a new folder"
            ) from error
        except OSError as error:
            raise TrainingError(
                f"`output_dir` {self.path}: cannot be written ({error.strerror}); choose another"
            ) from error
        try:
            self._check_content()
            found = find_checkpoint(self.config.resume, self.checkpoints) if self.config.resume else None
            if found is None and (self.path / WEIGHTS).exists():
                raise TrainingError(
                    f"`output_dir` {self.path}: holds a trained model and no checkpoint to resume from; choose a new "
                    "folder"
                )
            self._check_hub()
        except BaseException:
            self.release()
            raise
        return found or (None, None)

    def check_settings(self, config: TrainConfig) -> None:
        """Set the settings; with a checkpoint, check that its run had the same, and log what other processes change.

        Raises:
            TrainingError: If the resumed run had others.
        """
        self.config = config
        if self._manifest is not None:
            manifest, facts = self._manifest, self._facts()
            self._in_main_process(lambda: check_settings(manifest, facts["experiment"], facts["environment"]))
            processes = int(self._environment["processes"])
            if self.is_main and (line := describe_change(config, self.batch, manifest, processes)):
                _log.log(logging.INFO if self.batch.images == self.batch_before else logging.WARNING, "%s", line)

    @property
    def batch_before(self) -> int:
        """The global batch of the checkpoint; of this run without one."""
        return self.batch.images if self._manifest is None else int(self._manifest["global_batch"])

    def _check_content(self) -> None:
        others = [path for path in self.path.iterdir() if path.name != ".lock"]
        holds_run = (self.path / SETTINGS).exists()
        if (others and not holds_run) or (holds_run and not self.config.resume):
            raise TrainingError(
                f"`output_dir` {self.path}: holds a run; continue it with --resume auto, or choose a new folder"
                if holds_run
                else f"`output_dir` {self.path}: is not empty and holds no run; choose a new folder"
            )

    def release(self) -> None:
        """Wait for a checkpoint that is being written, and release the lock."""
        self.saver.close()
        if self._lock.is_locked:
            # Unlink first: a run that came in between would lock a file that is then deleted, and the next run another.
            (self.path / ".lock").unlink(missing_ok=True)
            self._lock.release()

    def _check_hub(self) -> None:
        """Check token and repository before training rather than after it."""
        if not (self.config.push_to_hub and self.config.hub_model_id):
            return
        repo_id, private = self.config.hub_model_id, self.config.hub_private
        repeat = publish_command(self.path, repo_id, private)
        if warning := check_access(repo_id, private=private):
            _log.warning("%s; training can go on, and push afterwards with: %s", warning, repeat)
        if self.config.push_every:
            self._pusher = BackgroundPusher(self.path, repo_id, private=private, repeat=repeat)

    def describe(
        self, data: ImageData, preprocessing: Preprocessing, ssia: SSIAConfig, class_weights: Tensor | None = None
    ) -> None:
        """Set the data, preprocessing, loss and class weights that cards, config.json and checkpoints describe.

        Every process must call this.

        Raises:
            ConfigError: If another process of the run has other settings or data.
            TrainingError: If the resumed run had others.
        """
        self._data = data
        self._preprocessing = preprocessing
        own = {name: getattr(preprocessing, name) for name in PREPROCESSING}
        self.config = replace(self.config, ssia=ssia, **own)
        self._class_weights = None if class_weights is None else class_weights.tolist()
        self.identity = {**data_identity(data), "class_weights": self._class_weights}
        described = gather_object([(self.config.decisive_settings(), self.identity)])
        check_processes(*zip(*described, strict=True))
        if self._manifest is not None:
            check_data(self._manifest, self.config.decisive_settings(), self.identity)

    def image_counts(self) -> dict[str, int]:
        """Return the number of evaluated images, and of images that could not be read so far."""
        train, evaluated = len(self._data.unreadable_train), len(self._data.unreadable_eval)
        images = len(self._data.eval) - evaluated
        return {"images": images, "unreadable_train": train, "unreadable_eval": evaluated}

    def begin(self, accelerator: Accelerator, step: int) -> None:
        """Write the settings, start the trackers, and drop what an earlier run wrote after `step`."""
        accelerator.init_trackers("ssia_zoo", config=_flat_settings(self.config))
        if self.is_main:
            with atomic_write(self.path / SETTINGS) as temporary:
                # Without what follows from the model, so that the file suits another one, too.
                temporary.write_text(replace(self.config, **self._asked).to_yaml(), encoding="utf-8")
            set_aside_later(self.checkpoints, step)
            clean_up(self.checkpoints)
            self._metrics: MetricsTracker = accelerator.get_tracker(MetricsTracker.name)
            self._metrics.resume(keep=self._manifest["records"] if self._manifest else 0)
            if not can_draw():
                _log.warning("curves.png is not drawn without matplotlib; run: pip install 'ssia-zoo[plots]'")

    def save_checkpoint(self, checkpointed: Checkpointed, state: TrainState) -> None:
        """Flush the metrics, then save a checkpoint; every process must call this."""
        facts = {**self._facts(), **self.batch.facts(), "epoch_images": state.images, "data": self.identity}
        if self.is_main:
            facts["records"] = self._metrics.flush()
        self.saver.save(checkpointed, state.step, facts)

    def _facts(self) -> dict[str, Any]:
        """Return what a checkpoint's manifest states about its run."""
        environment = {**self._environment, "threads": str(torch.get_num_threads())}
        outside = outside_objective(self.config)
        version = {} if outside is None else {"objective": f"{outside.path}, {outside.version}"}
        asked = {"accumulation_steps": self.batch.accumulation_asked}
        return {"experiment": {**self.config.decisive_settings(), **asked, **version}, "environment": environment}

    def save_model(
        self,
        student: TimmModel,
        metrics: dict[str, float],
        selection: Selection | None = None,
        unfinished: str | None = None,
    ) -> None:
        """Write config.json, model.safetensors and README.md, which state how the weights were chosen.

        `unfinished` is where a training that goes on is, such as "step 3 of 9".
        """
        if not self.is_main:
            return
        config, data = self.config, self._data
        objective = describe_objective(config)
        unused = {"ssia", "rival"} - {"rival" if objective else config.method}
        settings = {name: value for name, value in config.decisive_settings().items() if name not in unused}
        settings |= {"dataset": public_name(config.dataset), "model": public_model(config.model)}
        settings |= {"labels": Path(config.labels).name} if config.labels is not None else {}
        settings |= {"teacher": public_model(config.teacher)} if config.teacher is not None else {}
        chosen = None if selection is None else selection.describe()
        metadata: dict[str, Any] = {} if chosen is None else {"selection": chosen}
        metadata |= {} if unfinished is None else {"unfinished": unfinished}
        if (outside := outside_objective(config)) is not None:
            metadata["objective"] = {"path": outside.path, "version": outside.version}
        if config.class_weights is not None and self._class_weights is not None:
            settings["class_weights"] = Path(config.class_weights).name
            metadata["class_weights"] = dict(zip(data.label_names, self._class_weights, strict=True))
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
                "fingerprint": self.fingerprint,
                **metadata,
            },
            card=training_card(
                architecture=architecture,
                method=config.method,
                objective=objective,
                settings=settings,
                metrics=results,
                eval_name=data.eval_name,
                counts=counts,
                environment=self._environment,
                base_model=str(settings["model"]).split(":", 1)[-1] if config.pretrained else None,
                selection=chosen,
                unfinished=unfinished,
            ),
            threshold=metrics.get("threshold"),
        )

    def push(self, message: str) -> None:
        """Start uploading what `save_model` wrote, without waiting."""
        if self._pusher is not None:
            self._pusher.push(message)

    def finish(self) -> None:
        """Upload the final model, if asked; failures are logged and never raised, as the training itself is done."""
        if not (self.is_main and self.config.push_to_hub and self.config.hub_model_id):
            return
        if self._pusher is None:
            repo_id, private = self.config.hub_model_id, self.config.hub_private
            repeat = publish_command(self.path, repo_id, private)
            self._pusher = BackgroundPusher(self.path, repo_id, private=private, repeat=repeat)
        self._pusher.push("Upload the weights of a finished run")
        failures = self._pusher.close(timeout=_PUSH_SECONDS)
        if not failures:
            _log.info("published: %s", self.config.hub_model_id)


def _flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings as trackers take them: one level, plain values."""
    settings = asdict(config)
    for group in ("ssia", "rival"):
        settings |= {f"{group}.{name}": value for name, value in settings.pop(group).items()}
    return {k: v if isinstance(v, int | float | str | bool) else json.dumps(v) for k, v in settings.items()}
