"""FSDP2 as Accelerate applies it: what is offered of it, and the whole model that evaluation and saving need."""

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
from ssia_zoo.training.config import TrainConfig

_NOT_OFFERED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed is not offered",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM is not offered",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context and mixed parallelism are not offered",
    "FSDP_OFFLOAD_PARAMS": "offloading to the CPU is not offered",
    "FSDP_ACTIVATION_CHECKPOINTING": "--grad-checkpointing does that, by timm's means",
}


def sharding_plugin(config: TrainConfig) -> FullyShardedDataParallelPlugin | None:
    """Read what `accelerate launch` says of FSDP2; None if the model is not to be sharded.

    Raises:
        ConfigError: If sharding of another kind is asked for, or a setting that does not go with it.
    """
    for variable, reason in _NOT_OFFERED.items():
        if _is_set(variable):
            raise ConfigError(f"{variable} is set: {reason}; use docs/launch/one_node.yaml (DDP) or fsdp2.yaml")
    if not _is_set("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("FSDP is asked for in version 1; expected fsdp_version: 2, as in docs/launch/fsdp2.yaml")
    if os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP":  # would wrap what is never called
        raise ConfigError(
            "FSDP_AUTO_WRAP_POLICY is SIZE_BASED_WRAP; expected TRANSFORMER_BASED_WRAP or NO_WRAP, as in "
            "docs/launch/fsdp2.yaml"
        )
    refused = {
        "--ema": config.ema is not None,
        "--compile (or the launcher's dynamo backend)": bool(config.compile),
        "--sync-bn": config.sync_bn,
        "--channels-last": config.channels_last,
        "--clip-mode agc": config.clip_mode == "agc",
        "--mixed-precision fp16 (or the launcher's)": config.mixed_precision == "fp16",
    }
    if flags := [flag for flag, given in refused.items() if given]:
        raise ConfigError(f"{', '.join(flags)}: not offered with FSDP2; leave it out, or use docs/launch/one_node.yaml")
    return FullyShardedDataParallelPlugin(
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,  # cannot load buffers, such as BatchNorm's
        mixed_precision_policy=MixedPrecisionPolicy(),  # autocast instead, as elsewhere: BatchNorm stays in float32
    )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def check_applied(accelerator: Accelerator) -> None:
    """See that FSDP2 was not passed over.

    Raises:
        ConfigError: If it was.
    """
    if not accelerator.is_fsdp2:  # Accelerate says nothing
        raise ConfigError(
            "FSDP2 needs GPUs and accelerate launch or torchrun, else Accelerate ignores it; without them take "
            "docs/launch/one_node_cpu.yaml"
        )


def whole_copy(accelerator: Accelerator, model: TimmModel) -> TimmModel | None:
    """Copy a model that FSDP2 is about to shard; None if it is not.

    Raises:
        ConfigError: If the model has no such blocks as are to be sharded one by one.
    """
    if not accelerator.is_fsdp2:
        return None
    there = {type(module).__name__ for module in model.modules()}
    for name in accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap or ():
        if name not in there:
            raise ConfigError(
                f"fsdp_transformer_layer_cls_to_wrap is {name}, and the model has none; expected the class of its "
                "blocks, as print(model) shows it, or fsdp_auto_wrap_policy: NO_WRAP"
            )
    return deepcopy(model)


@torch.no_grad()
def gather(sharded: TimmModel, whole: TimmModel) -> None:
    """Copy a sharded model's parameters and buffers into a whole one; every process must call this."""
    into = whole.state_dict()
    for name, tensor in sharded.state_dict().items():
        into[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
