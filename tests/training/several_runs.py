"""Trains several runs in the same processes, one after another: starting a process costs more than a small run.

Started by torchrun, or alone. Each argument is a JSON list of train_hf.py's flags. With COLLECTIVES set to a file, the
main process writes there what each run asked of the process group: by name, the number of calls and of elements.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import defaultdict
from pathlib import Path

import torch
from accelerate.state import PartialState

from ssia_zoo.training import parse_config, train


def collectives(profile: torch.profiler.profile) -> dict[str, list[int]]:
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for event in profile.events():
        if event.name.startswith("gloo:"):
            counted[event.name][0] += 1
            counted[event.name][1] += sum(math.prod(shape) for shape in event.input_shapes if shape)
    return dict(counted)


def main() -> None:
    PartialState.destroy_process_group = lambda *_: None  # at the end of a run; the next one still needs it
    found = []
    for argument in sys.argv[1:]:
        flags = json.loads(argument)
        if "COLLECTIVES" not in os.environ:
            train(parse_config(flags))
            continue
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
            train(parse_config(flags))
        found.append(collectives(profile))
    if found and PartialState().is_main_process:
        Path(os.environ["COLLECTIVES"]).write_text(json.dumps(found), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
