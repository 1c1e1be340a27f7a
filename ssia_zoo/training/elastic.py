"""Continue a run with another number of processes: same global batch where possible, each image once per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.checkpoint import TrainState
from ssia_zoo.training.config import TrainConfig


@dataclass(frozen=True)
class GlobalBatch:
    """Images per optimizer step over all processes."""

    images: int
    intended: int
    """of the run's first processes; `images` where the present number of processes allows it"""
    accumulation_asked: int
    """`accumulation_steps` that gave the intended one"""

    def facts(self) -> dict[str, int]:
        """Return what a checkpoint's manifest states."""
        return {
            "global_batch": self.images,
            "intended_global_batch": self.intended,
            "accumulation_asked": self.accumulation_asked,
        }


def resume_batch(config: TrainConfig, manifest: Mapping[str, Any] | None, processes: int) -> GlobalBatch:
    """Return the global batch: of a new run by its settings, of a resumed one that of its checkpoint or the nearest.

    Args:
        config: Settings, as given by the user.
        manifest: The checkpoint's manifest; None for a new run.
        processes: Number of processes.

    Raises:
        ConfigError: A static graph would need accumulation, or a stream was left in the middle of an epoch by another
            number of processes. Every process raises it.
    """
    asked, each = config.batches_per_step, config.batch_size * processes
    if manifest is None:
        return GlobalBatch(each * asked, each * asked, asked)
    before = manifest["processes"]
    if config.streaming and before != processes and manifest["epoch_images"]:
        raise ConfigError(
            f"`streaming`: processes share a stream by their number, so within an epoch the run resumes with {before} "
            f"processes, not {processes}; or give a checkpoint of the end of an epoch to `resume`"
        )
    intended, asked_before = int(manifest["intended_global_batch"]), int(manifest["accumulation_asked"])
    steps = max(1, round(intended / each))
    if asked not in (asked_before, steps):  # refused with the other changed settings
        return GlobalBatch(each * asked, intended, asked)
    if config.ddp_static_graph and steps > 1:
        raise ConfigError(
            f"`ddp_static_graph` does not work with accumulation, by which {processes} processes would keep the global "
            f"batch of {intended} images; resume with {intended // config.batch_size} processes"
        )
    return GlobalBatch(each * steps, intended, asked_before)


def with_accumulation(config: TrainConfig, batch: GlobalBatch, processes: int) -> TrainConfig:
    """Set `accumulation_steps` to those of the global batch."""
    return replace(config, accumulation_steps=batch.images // (config.batch_size * processes))


def describe_change(config: TrainConfig, batch: GlobalBatch, manifest: Mapping[str, Any], processes: int) -> str:
    """Describe in one line what another number of processes changes; "" if nothing."""
    before = manifest["processes"], manifest["global_batch"]
    if before == (processes, batch.images):
        return ""
    line = (
        f"resuming with {processes} processes instead of {before[0]}: batches of {config.batch_size} images x "
        f"{config.batches_per_step} accumulated x {processes} processes "
    )
    if batch.images == before[1]:
        return f"{line}keep the global batch of {batch.images}; random numbers such as dropout's are drawn anew"
    reason = f" ({batch.intended} is no multiple of {config.batch_size * processes})"
    return (
        f"{line}give a global batch of {batch.images} instead of {before[1]}"
        f"{reason if batch.images != batch.intended else ''}: an epoch has other steps, and the schedule continues at "
        "the same part of the epoch; "
        + (f"learning rate {config.lr:g}, by `lr_base`" if config.lr_base is not None else "the learning rate is kept")
    )


def align(state: TrainState, images: int, batch: int, steps_per_epoch: int) -> None:
    """Continue at the same image after the global batch has changed.

    The epoch's rest is divided into steps of the new size, and the schedule's position is counted back from the
    epoch's end. `state.step` still counts the steps that were taken.

    Args:
        state: Of the checkpoint.
        images: Per epoch.
        batch: The new global batch.
        steps_per_epoch: By the new global batch.
    """
    rest = (images - state.images) // batch
    state.shift = (state.epoch + 1) * steps_per_epoch - rest - state.step
