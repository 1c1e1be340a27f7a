"""Configure FSDP2 from Accelerate's launcher, and gather a sharded model for evaluation and saving."""

from __future__ import annotations

import os
from copy import deepcopy

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.models.features import TimmModel
from ssia_zoo.training.config import AutoBatchSize, TrainConfig

_UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed is not supported",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM is not supported",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context and mixed parallelism are not supported",
    "FSDP_OFFLOAD_PARAMS": "offloading to the CPU is not supported",
    "FSDP_ACTIVATION_CHECKPOINTING": "use `grad_checkpointing` instead",
}


def sharding_plugin(config: TrainConfig) -> FullyShardedDataParallelPlugin | None:
    """Build the FSDP2 plugin from the variables that `accelerate launch` sets; None without FSDP.

    Raises:
        ConfigError: If another kind of sharding is asked for, or a setting that FSDP2 does not support.
    """
    for variable, reason in _UNSUPPORTED.items():
        if _is_set(variable):
            raise ConfigError(f"{variable} is set: {reason}; use docs/launch/one_node.yaml (DDP) or fsdp2.yaml")
    if not _is_set("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("FSDP version 1 is not supported; expected fsdp_version: 2, as in docs/launch/fsdp2.yaml")
    # It would wrap containers whose forward timm never calls.
    if os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP":
        raise ConfigError(
            "FSDP_AUTO_WRAP_POLICY is SIZE_BASED_WRAP; expected TRANSFORMER_BASED_WRAP or NO_WRAP, as in "
            "docs/launch/fsdp2.yaml"
        )
    refused = {
        "`batch_size` auto": isinstance(config.batch_size, AutoBatchSize),  # would try the unsharded model
        "`ema`": config.ema is not None,
        "`ssia.supervisor` average": config.method == "ssia" and config.ssia.supervisor == "average",
        "`compile` (or the launcher's dynamo backend)": bool(config.compile),
        "`sync_bn`": config.sync_bn,
        "`ddp_static_graph`": config.ddp_static_graph,
        "`ddp_compression`": config.ddp_compression != "no",
        "`lora`": config.lora is not None,
        "`channels_last`": config.channels_last,
        "`clip_mode` agc": config.clip_mode == "agc",
        "`mixed_precision` fp16 (or the launcher's)": config.mixed_precision == "fp16",
    }
    if names := [name for name, given in refused.items() if given]:
        raise ConfigError(
            f"{', '.join(names)}: not supported with FSDP2; leave it out, or use docs/launch/one_node.yaml"
        )
    return FullyShardedDataParallelPlugin(
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,  # it cannot load buffers, such as BatchNorm's
        mixed_precision_policy=MixedPrecisionPolicy(),  # autocast is used instead, so that BatchNorm stays in float32
    )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def check_applied(accelerator: Accelerator) -> None:
    """Check that Accelerate applies FSDP2, which it ignores silently on CPUs and without a launcher.

    Raises:
        ConfigError: If it does not.
    """
    if not accelerator.is_fsdp2:
        raise ConfigError(
            "FSDP2 needs GPUs and accelerate launch or torchrun, else Accelerate ignores it; without them use "
            "docs/launch/one_node_cpu.yaml"
        )


def unsharded_copy(accelerator: Accelerator, model: TimmModel) -> TimmModel | None:
    """Copy a model before FSDP2 shards it; None without FSDP2.

    Raises:
        ConfigError: If the model has no blocks of the class to be sharded.
    """
    if not accelerator.is_fsdp2:
        return None
    classes = {type(module).__name__ for module in model.modules()}
    for name in accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap or ():
        if name not in classes:
            raise ConfigError(
                f"fsdp_transformer_layer_cls_to_wrap is {name}, which the model does not have; expected the class of "
                "its blocks, as print(model) shows it, or fsdp_auto_wrap_policy: NO_WRAP"
            )
    return deepcopy(model)


@torch.no_grad()
def gather(sharded: TimmModel, unsharded: TimmModel) -> None:
    """Copy a sharded model's parameters and buffers into an unsharded one; every process must call this."""
    target = unsharded.state_dict()
    for name, tensor in sharded.state_dict().items():
        target[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
