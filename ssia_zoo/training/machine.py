"""Build the Accelerator and describe the environment."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accelerate
import PIL
import timm
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DataLoaderConfiguration,
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    TorchDynamoPlugin,
)

from ssia_zoo.data.jpeg import decoder_version
from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.fsdp import check_applied, sharding_plugin
from ssia_zoo.training.metrics import MetricsTracker
from ssia_zoo.version import __version__

_log = logging.getLogger(__name__)

BF16_IS_SLOW = "this CPU has no bf16 instructions: `mixed_precision` bf16 is many times slower here than no"


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Build the Accelerator: devices, processes, precision, trackers.

    Args:
        config: Settings, as returned by `resolve_launcher`.

    Raises:
        ConfigError: If this machine lacks the precision or the tracker, or the launcher asks for an unsupported kind of
            sharding.
    """
    if config.with_tracking and config.tracker not in (available := [str(t) for t in get_available_trackers()]):
        raise ConfigError(
            f"`tracker` {config.tracker} is not installed; installed: {', '.join(available) or 'none'} "
            "(pip install 'ssia-zoo[tracking]' installs tensorboard)"
        )
    if config.ddp_static_graph and config.batches_per_step > 1:
        raise ConfigError(
            f"`ddp_static_graph` does not work with `accumulation_steps` {config.batches_per_step} (or a launcher's): "
            "only some batches then average gradients; leave out one of them"
        )
    if config.sync_bn and not torch.cuda.is_available():
        raise ConfigError("`sync_bn` needs GPUs; leave it out on CPUs")
    if config.mixed_precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError("`mixed_precision` fp16 (or the launcher's) needs a GPU; on a CPU use bf16 or no")
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if config.mixed_precision == "bf16" and not torch.accelerator.is_available() and capabilities and not native:
        _log.warning(BF16_IS_SLOW)
    plugin = sharding_plugin(config)
    metrics = MetricsTracker(Path(config.output_dir), config.method)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.batches_per_step),
        log_with=[metrics, *([config.tracker] if config.with_tracking else [])],
        project_dir=config.output_dir,
        dynamo_plugin=TorchDynamoPlugin(backend=config.compile_backend or "no", mode=config.compile_mode),
        fsdp_plugin=plugin,
        dataloader_config=DataLoaderConfiguration(non_blocking=torch.cuda.is_available()),
        kwargs_handlers=[_ddp_options(config)],
    )
    if plugin is not None:
        check_applied(accelerator)
    return accelerator


def _ddp_options(config: TrainConfig) -> DistributedDataParallelKwargs:
    """Build the options of DDP; gradients are views of its buffers, which saves a copy of them."""
    compression = {"no": DDPCommunicationHookType.NO, "bf16": DDPCommunicationHookType.BF16}[config.ddp_compression]
    return DistributedDataParallelKwargs(
        gradient_as_bucket_view=True, static_graph=config.ddp_static_graph, comm_hook=compression
    )


@contextmanager
def fast_kernels(config: TrainConfig) -> Iterator[None]:
    """Let cuDNN try its convolutions and take the fastest, and use TensorFloat-32 if asked; both for NVIDIA GPUs."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, config.tf32, config.tf32
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def describe_environment(accelerator: Accelerator) -> dict[str, str]:
    """Return the versions and the machine, for model cards and checkpoints."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "accelerate": accelerate.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": decoder_version() or "not installed",
        "ssia-zoo": __version__,
        "device": f"{name} ({platform.machine()})",
        "processes": str(accelerator.num_processes),
    }
