"""Find the batch size that fits in memory (`batch_size` auto), or take it from the checkpoint of a resumed run."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size, send_to_device

from ssia_zoo.data import DeviceTransform, ImageData, load_image_data, train_loader
from ssia_zoo.errors import TrainingError
from ssia_zoo.log import quiet
from ssia_zoo.loss.processes import without_exchange
from ssia_zoo.task import AuxiliaryTask
from ssia_zoo.training.checkpoint import find_checkpoint
from ssia_zoo.training.class_balance import class_weights
from ssia_zoo.training.config import AutoBatchSize, TrainConfig
from ssia_zoo.training.methods import with_lambda
from ssia_zoo.training.mixup import build_mixing
from ssia_zoo.training.model import build_model
from ssia_zoo.training.optimization import build_optimizer
from ssia_zoo.training.run import build_task
from ssia_zoo.training.signals import all_reduce_max

_log = logging.getLogger(__name__)


def resolve_batch_size(config: TrainConfig, accelerator: Accelerator) -> TrainConfig:
    """Replace `batch_size` auto by a number: the resumed run's, or the largest that fits, the same in all processes.

    Training steps are tried on real batches, without synchronization, torch.compile or a gradient scaler; every process
    must call this.

    Raises:
        TrainingError: If the smallest possible batch does not fit either.
        SSIAZooError: If the data, the model or the checkpoint cannot be used.
    """
    first = config.batch_size
    if not isinstance(first, AutoBatchSize):
        return config
    checkpoints = Path(config.output_dir) / "checkpoints"
    if config.resume and (found := find_checkpoint(config.resume, checkpoints)):
        size = int(found[1]["experiment"]["batch_size"])
        _log.info("`batch_size` auto: %d, as in the run that is resumed", size)
        return replace(config, batch_size=size)
    with quiet(logging.ERROR):  # the run itself logs the same again
        fitting = _search(config, accelerator)
    (negative,) = all_reduce_max(accelerator, -fitting)
    if not negative:
        raise TrainingError(
            f"out of memory with a batch of {_smallest(config)}; set `grad_checkpointing` or a smaller `image_size`"
        )
    how = (
        "which fits in memory" if -negative == first else f"halved from {first} to fit memory and the number of images"
    )
    _log.info("`batch_size` auto: %d, %s; results depend on it: set the number to repeat the run", -negative, how)
    return replace(config, batch_size=-negative)


def fitting_batch_size(config: TrainConfig, accelerator: Accelerator) -> int:
    """Return the largest halving of `batch_size` that fits in this process's memory, after the run itself did not.

    Returns:
        The size; 0 if none fits, if half a batch is not possible, or under FSDP2, which cannot be tried.
    """
    half = config.batch_size // 2
    if accelerator.is_fsdp2 or config.batch_size % (2 * _smallest(config)):
        return 0
    _log.info("out of memory with batches of %d images: trying smaller ones", config.batch_size)
    with quiet(logging.ERROR):  # the run has logged the same
        return _search(replace(config, batch_size=half), accelerator)


def _smallest(config: TrainConfig) -> int:
    """Return the number that a batch size must be a multiple of."""
    return math.lcm(config.aug_repeats, 2 if config.mixup or config.cutmix else 1)


def _search(config: TrainConfig, accelerator: Accelerator) -> int:
    """Return the largest halving of the first batch size that fits, or 0."""
    data = load_image_data(config)
    size, smallest = int(config.batch_size), _smallest(config)
    images = len(data.train) // (config.batches_per_step * accelerator.num_processes)

    def halve() -> int:
        nonlocal size
        size = size // 2 if size % (2 * smallest) == 0 else 0
        return size

    while size > images:
        if halve() < smallest:
            return smallest  # the run reports that there are too few images

    def fits(batch_size: int) -> int:
        try:
            with without_exchange():
                _train_steps(replace(config, batch_size=batch_size), accelerator, data)
        except RuntimeError as error:
            if "could not create a primitive" in str(error):  # of oneDNN, without memory; Accelerate knows this one:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory") from error
            raise
        return batch_size

    try:
        return int(find_executable_batch_size(fits, size, halve)())
    except RuntimeError:
        if size:
            raise
        return 0  # Accelerate's function has reached it


def _train_steps(config: TrainConfig, accelerator: Accelerator, data: ImageData) -> None:
    """Take two optimizer steps: only the second one has the optimizer's state in memory during its forward."""
    model, preprocessing = build_model(config, len(data.label_names), data.label_names)
    config = replace(preprocessing.applied_to(with_lambda(config, model)), workers=0)
    weights = class_weights(config, data)
    task = build_task(config, model, preprocessing, data, accelerator, weights)
    optimizer = build_optimizer(config, task.get_trainable_module())
    mean, std = preprocessing.mean, preprocessing.std
    batches = train_loader(data, config, mean=mean, std=std, seed=config.seed, device=accelerator.device)
    batch = send_to_device(next(iter(batches)), accelerator.device)
    images, labels, indices = DeviceTransform(config, mean, std)(batch)
    classes, process = len(data.label_names), accelerator.process_index
    if (mixing := build_mixing(config, classes, process, multi_label=data.multi_label)) is not None:
        images, labels = mixing((images, labels), 0, 0)
    task.train()
    for _ in range(2):
        with accelerator.autocast():
            result = task(images, labels, indices) if isinstance(task, AuxiliaryTask) else task(images, labels)
        result["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
