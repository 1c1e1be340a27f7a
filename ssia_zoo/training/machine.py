"""What a run stands on: the Accelerator, the model and its preprocessing, the machine."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import accelerate
import timm
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin
from timm.layers import convert_sync_batchnorm
from timm.models import resolve_model_input_args
from torch import Tensor

from ssia_zoo.data.preprocessing import Preprocessing, model_preprocessing, with_default_preprocessing
from ssia_zoo.errors import ConfigError, SSIAZooError, one_line
from ssia_zoo.models.features import TimmModel, evaluating, forward_stages, stage_indices
from ssia_zoo.models.loading import create_checked, timm_name
from ssia_zoo.training.model import adapt_head
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.fsdp import check_applied, sharding_plugin
from ssia_zoo.version import __version__

_log = logging.getLogger(__name__)

BF16_IS_SLOW = "this CPU has no bf16 instructions: --mixed-precision bf16 is many times slower here than no"


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Make the Accelerator, which knows devices, processes and precision.

    Args:
        config: Settings, of which `resolve_launcher` has left none open.

    Raises:
        ConfigError: If this machine lacks the precision or the tracker asked for, or the launcher asks for sharding
            that is not offered.
    """
    if config.with_tracking and config.tracker not in (available := [str(t) for t in get_available_trackers()]):
        raise ConfigError(
            f"--tracker {config.tracker} is not installed; installed: {', '.join(available) or 'none'} "
            "(pip install 'ssia-zoo[tracking]' brings tensorboard)"
        )
    if config.sync_bn and not torch.cuda.is_available():
        raise ConfigError("--sync-bn needs GPUs; on CPUs leave it out")
    if config.mixed_precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError("--mixed-precision fp16 (or the launcher's) needs a GPU; on a CPU use bf16 or no")
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if config.mixed_precision == "bf16" and not torch.accelerator.is_available() and capabilities and not native:
        _log.warning(BF16_IS_SLOW)
    plugin = sharding_plugin(config)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.batches_per_step),
        log_with=config.tracker if config.with_tracking else None,
        project_dir=config.output_dir,
        dynamo_plugin=TorchDynamoPlugin(backend=config.compile_backend or "no", mode=config.compile_mode),
        fsdp_plugin=plugin,
    )
    if plugin is not None:
        check_applied(accelerator)
    return accelerator


def build_model(
    config: TrainConfig, num_classes: int, label_names: Sequence[str] = ()
) -> tuple[TimmModel, Preprocessing]:
    """Create the model that is trained, and learn how it wants its images.

    Args:
        config: Settings. Image size, interpolation and crop that are None are those of the model to be fine-tuned, or
            from scratch the defaults of `Preprocessing`.
        num_classes: Classes of the data.
        label_names: Their names, by which a pretrained head is matched.

    Raises:
        ConfigError: If timm has no such model, or it cannot be made for this size.
        WeightError, HubError: If its weights, to be fine-tuned, are not there or not sound.
    """
    model = create_model(config, num_classes)
    if config.pretrained and label_names:
        adapt_head(
            model,
            label_names,
            config.model,
            lambda pretrained: create_model(
                replace(config, pretrained=pretrained), None if pretrained else num_classes
            ),
        )
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    preprocessing = model_preprocessing(model, config if config.pretrained else with_default_preprocessing(config))
    channels, height, width = preprocessing.input_size
    if height != width or channels != 3:
        raise ConfigError(f"--model {config.model} takes {channels}x{height}x{width}; expected square RGB images")
    _try_size(model, config.model, height)
    if config.batch_size == 1:
        _try_batch_of_one(model, config.model, height)
    if config.grad_checkpointing:
        _checkpoint_gradients(model, config, height)
    if config.sync_bn:
        model = convert_sync_batchnorm(model)
    origin = f"of {config.model}" if config.pretrained else "from scratch: the defaults"
    _log.info("preprocessing %s, where no flag says otherwise: %s", origin, preprocessing)
    return model, preprocessing


def create_model(config: TrainConfig, num_classes: int | None = None) -> TimmModel:
    """Create `--model` with its arguments.

    Args:
        config: Settings; `image_size` None means the model's own.
        num_classes: Classes of the data; the model's own if None.

    Raises:
        ConfigError, WeightError, HubError: As `build_model`.
    """
    arguments: dict[str, Any] = {"drop_rate": config.drop_rate, "drop_path_rate": config.drop_path_rate}
    arguments |= json.loads(json.dumps(config.model_kwargs))  # as config.json will hold them; the model may change its
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    pretrained = config.pretrained or config.eval_only
    try:
        source = timm_name(config.model, pretrained=pretrained)
        size = {"img_size": config.image_size} if config.image_size else None
        img_size = resolve_model_input_args(source, size).get("img_size")  # for models of one fixed size
        return create_checked(source, pretrained=pretrained, img_size=img_size, **arguments)
    except SSIAZooError as error:
        raise type(error)(f"--model {config.model}: {error}") from error
    except Exception as error:  # timm's resolving raises every kind
        raise ConfigError(f"--model {config.model}: {type(error).__name__}: {one_line(error)}") from error


def _checkpoint_gradients(model: TimmModel, config: TrainConfig, size: int) -> None:
    """Switch timm's gradient checkpointing on, and say so if the model makes no use of it in this training."""

    def saved_bytes() -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        image = torch.zeros(1, 3, size, size)
        with evaluating(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(image) if config.method == "vanilla" else forward_stages(model, image, stage_indices(model))
        return sum(sizes)

    before = saved_bytes()
    try:
        model.set_grad_checkpointing()
    except (AttributeError, AssertionError) as error:
        raise ConfigError(f"--grad-checkpointing: {config.model} does not offer it; leave it out") from error
    if saved_bytes() >= before:
        _log.warning(
            "--grad-checkpointing saves nothing here: timm's %s makes no use of it in %s",
            *(config.model, "this forward" if config.method == "vanilla" else "forward_intermediates"),
        )


def _try_size(model: TimmModel, name: str, size: int) -> None:
    """Run one blank image, so that a size which the model cannot take is known before the data is read."""
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    except Exception as error:  # timm asserts; layers raise what they like
        reason = " ".join(str(error).split())
        raise ConfigError(f"--model {name} cannot take images of size {size}x{size}: {reason}") from error


def _try_batch_of_one(model: TimmModel, name: str, size: int) -> None:
    """See whether BatchNorm can train on one image: a map of one position gives it nothing to normalize by."""
    try:
        with torch.no_grad():
            deepcopy(model).train()(torch.zeros(1, 3, size, size))
    except ValueError as error:
        raise ConfigError(
            f"--batch-size 1 does not suit --model {name} at size {size}x{size}, whose BatchNorm needs more than one "
            "value a channel; expected at least 2"
        ) from error


def describe_environment(accelerator: Accelerator) -> dict[str, str]:
    """Versions and machine, for cards and records."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "accelerate": accelerate.__version__,
        "ssia-zoo": __version__,
        "device": f"{name} ({platform.machine()})",
        "processes": str(accelerator.num_processes),
    }
