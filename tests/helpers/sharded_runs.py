"""Train several runs under FSDP2 in the same processes, on CPUs, where Accelerate would silently ignore it.

Started by torchrun. Each argument is a JSON list: environment variables and train_hf.py's flags. The main process
writes how each run's model was sharded to the file that the variable SHARDS names.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ssia_zoo.training import machine, parse_config, train

shards: list[dict[str, Any]] = []


class ShardingAccelerator(Accelerator):
    """Enables FSDP as AcceleratorState does with GPUs, if there is a plugin; the rest is Accelerate's own."""

    def __init__(self, **settings: Any) -> None:
        state = PartialState(cpu=True)
        state.distributed_type = DistributedType.MULTI_CPU if state.num_processes > 1 else DistributedType.NO
        super().__init__(**settings)
        if settings["fsdp_plugin"] is None:
            return
        PartialState().distributed_type = self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = settings["fsdp_plugin"]

    def prepare(self, *parts: Any, **settings: Any) -> Any:
        prepared = super().prepare(*parts, **settings)
        if not (self.is_fsdp2 and isinstance(parts[0], torch.nn.Module)):
            return prepared
        module = prepared[0]
        parameters = list(module.parameters())
        shards.append(
            {
                "processes": self.num_processes,
                "all_sharded": all(isinstance(parameter, DTensor) for parameter in parameters),
                "elements": sum(parameter.numel() for parameter in parameters),
                "held": sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor)),
                "units": sum(isinstance(part, FSDPModule) for part in module.modules()),
            }
        )
        return prepared


def main() -> None:
    PartialState.destroy_process_group = lambda *_: None  # the next run still needs it
    machine.Accelerator = ShardingAccelerator
    for argument in sys.argv[1:]:
        AcceleratorState._reset_state()  # the next run may use another precision
        variables, flags = json.loads(argument)
        os.environ.update(variables)
        train(parse_config(flags))
    if PartialState().is_main_process:
        Path(os.environ["SHARDS"]).write_text(json.dumps(shards), encoding="utf-8")


if __name__ == "__main__":
    main()
