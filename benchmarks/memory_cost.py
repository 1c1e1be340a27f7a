"""Compare the time of a training step between the supervisors of the SSIA loss, and with vanilla training.

    python benchmarks/memory_cost.py               # measure append to results/memory_cost.jsonl, write tables
    python benchmarks/memory_cost.py --report      # only write the tables in benchmarks/speed.md

A step is forward, loss, backward and optimizer step on random images that are in memory already, so the ratios are
higher than those of a run, which also loads its data. The forms take turns in one process, in a shuffled order, so that
other load affects them alike. Ratios of CPU time are taken within a round; the tables give their median and quartiles.
"read + update" is what the memory adds to a step, measured without the step.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import timm
import torch
import tyro
from recording import (
    BENCHMARKS,
    RESULTS,
    Record,
    Seconds,
    append_record,
    environment,
    in_turns,
    machine_text,
    quartiles,
    read_results,
    replace_table,
    timed,
)
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, TrainingTask

from ssia_zoo.loss.memory import PredictionMemory
from ssia_zoo.loss.ssia import SSIAConfig
from ssia_zoo.task import SSIATask

RECORDS = RESULTS / "memory_cost.jsonl"
REPORT = BENCHMARKS / "speed.md"
NOW = SSIAConfig(labels=1.0, handover=True)
FORMS = {
    "vanilla": None,
    "now": NOW,
    "memory": replace(NOW, supervisor="memory", top=True),
    "average": replace(NOW, supervisor="average", top=True),
}
ALONE = "read + update"
PAIRS = [
    ("memory", "now"),
    (ALONE, "now"),
    ("average", "now"),
    ("now", "vanilla"),
    ("memory", "vanilla"),
    ("average", "vanilla"),
]


@dataclass(frozen=True)
class Case:
    """What is trained."""

    arch: str
    image_size: int
    batch_size: int
    classes: int
    images: int
    """rows of the memory; the second case has a tenth of ImageNet-1k"""
    rounds: int
    """turns of each form"""


CASES = [
    Case("resnet18", image_size=32, batch_size=64, classes=10, images=50_000, rounds=48),
    Case("tf_efficientnet_lite0", image_size=224, batch_size=8, classes=1000, images=128_116, rounds=16),
]


@dataclass(frozen=True)
class Settings:
    """Compare the time of a training step between the supervisors of the SSIA loss."""

    report: bool = False
    """only write the tables"""
    seed: int = 0
    """seed of weights, images and turns"""


def make_step(case: Case, config: SSIAConfig | None, seed: int) -> Callable[[], None]:
    """Return a function that takes one optimizer step in a form's own model."""
    torch.manual_seed(seed)
    model = timm.create_model(case.arch, num_classes=case.classes)
    size = (3, case.image_size, case.image_size)
    task: TrainingTask
    if config is None:
        task = ClassificationTask(model, verbose=False)
    else:
        task = SSIATask(model, config, images=case.images, input_size=size)
        task.progress = 0.5
    if config is not None and config.supervisor == "average":
        task.setup_ema(0.999)
    optimizer = create_optimizer_v2(task.trainable_module, "adamw", 1e-3, 0.05)
    images, labels = torch.randn(case.batch_size, *size), torch.randint(case.classes, (case.batch_size,))
    task.train()

    def step() -> None:
        indices = (torch.randint(case.images, labels.shape),) if config is not None else ()
        task(images, labels, *indices)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema()

    return step


def make_update(case: Case, seed: int) -> Callable[[], None]:
    """Return a function that reads and updates the memory of a batch, without a model."""
    memory = PredictionMemory(case.images, case.classes, NOW.momentum)
    logits = torch.randn(case.batch_size, case.classes, generator=torch.Generator().manual_seed(seed))

    def update() -> None:
        indices = torch.randint(case.images, (case.batch_size,))
        memory.read(indices)
        memory.update(indices, logits)

    return update


def measure(case: Case, seed: int) -> Record:
    """Time each form in turns."""
    load = os.getloadavg()[0]
    steps = {name: timed(make_step(case, config, seed)) for name, config in FORMS.items()}
    steps[ALONE] = timed(make_update(case, seed))
    turns = in_turns(steps, case.rounds, seed)
    return {
        "benchmark": "memory_cost",
        "settings": {**asdict(case), "seed": seed, "threads": torch.get_num_threads()},
        "cpu_ms": {name: round(1000 * statistics.median(turn.cpu for turn in turns[name]), 2) for name in turns},
        "ratios": {f"{above} / {below}": quartiles(ratios(turns, above, below)) for above, below in PAIRS},
        "memory_bytes": 2 * case.images * case.classes,
        **environment(load),
    }


def ratios(turns: dict[str, list[Seconds]], above: str, below: str) -> list[float]:
    """Return the CPU time of one form divided by that of another, round by round."""
    return [one.cpu / other.cpu for one, other in zip(turns[above], turns[below], strict=True)]


def table(records: list[Record]) -> list[str]:
    """Format the newest record of each case as Markdown."""
    titles = [f"`{r['settings']['arch']}` at {r['settings']['image_size']} px" for r in records]
    lines = [f"| CPU time of a step: median (quartiles) | {' | '.join(titles)} |", "|---" * (len(records) + 1) + "|"]
    for above, below in PAIRS:
        ratio = f"{above} / {below}"
        cells = [f"{middle:.3f} ({low:.3f}–{high:.3f})" for low, middle, high in (r["ratios"][ratio] for r in records)]
        lines.append(f"| {ratio} | {' | '.join(cells)} |")
    lines.append("| size of the memory | " + " | ".join(f"{r['memory_bytes'] / 1e6:,.0f} MB" for r in records) + " |")
    for record in records:
        settings = record["settings"]
        times = ", ".join(f"{name} {value:.1f}" for name, value in record["cpu_ms"].items())
        lines += [
            "",
            f"`{settings['arch']}`: batch {settings['batch_size']}, {settings['images']:,} images, "
            f"{settings['classes']:,} classes, {settings['rounds']} rounds, {settings['threads']} thread, seed "
            f"{settings['seed']}, {record['time'][:10]}; median ms per step: {times}; torch "
            f"{record['versions']['torch']}, timm {record['versions']['timm']}; {machine_text(record['machine'])}.",
        ]
    return lines


def main(settings: Settings) -> None:
    torch.set_num_threads(1)
    if not settings.report:
        for case in CASES:
            append_record(RECORDS, measure(case, settings.seed))
    newest = {record["settings"]["arch"]: record for record in read_results(RECORDS)}
    replace_table(REPORT, "memory_cost", table(list(newest.values())))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
