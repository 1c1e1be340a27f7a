"""Tables of docs/scaling.md from the records of growth.py, and the projection from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from recording import Record, machine_text, replace_table

from ssia_zoo.task import SSIATask


@dataclass(frozen=True)
class Target:
    """The run to project; everything but the sizes of data and gradients is assumed."""

    arch: str = "resnet50"
    images: int = 14_197_122
    classes: int = 21_841
    gpus: int = 1024
    gpus_per_node: int = 8
    batch_size: int = 64
    images_per_second: float = 1000.0
    """of one GPU, bf16"""
    bandwidth: float = 25e9
    """bytes per second that one GPU sends on the slowest link of the ring"""


def write_tables(page: Path, found: dict[str, Record]) -> None:
    """Write the tables of a record of each part."""
    tables = {"images": images_table, "classes": classes_table, "processes": processes_table}
    for part, table in tables.items():
        replace_table(page, f"growth-{part}", table(found[part]))
    replace_table(page, "growth-projection", projection_table(found, Target()))


def images_table(record: Record) -> list[str]:
    lines = [
        "| images in the folder | listed and labelled, CPU s | first batch, s | with the digest, s | memory, MB |",
        "|---" * 5 + "|",
    ]
    for row in record["rows"]:
        more = row["peak_mb"] - row["imports_mb"]
        times = " | ".join(f"{row[name]:.2f}" for name in ("load", "first_batch", "identity"))
        lines.append(f"| {row['images']:,} | {times} | {more:.0f} |")
    return [*lines, "", f"Times from the start, after the imports; memory beyond that of the imports. {_when(record)}"]


def classes_table(record: Record) -> list[str]:
    lines = [
        "| classes | parameters, vanilla / with heads | start, CPU s | step, CPU ms | more | memory, MB |",
        "|---" * 6 + "|",
    ]
    for vanilla, ssia in zip(record["rows"][::2], record["rows"][1::2], strict=True):
        pair = (vanilla, ssia)
        parameters = " / ".join(f"{row['parameters'] / 1e6:.1f} M" for row in pair)
        start, step = (
            " / ".join(f"{row[name]:.{digits}f}" for row in pair) for name, digits in (("start", 2), ("step_ms", 0))
        )
        memory = " / ".join(f"{row['peak_mb'] - row['imports_mb']:.0f}" for row in pair)
        more = ssia["step_ms"] / vanilla["step_ms"] - 1
        lines.append(f"| {ssia['classes']:,} | {parameters} | {start} | {step} | {more:+.0%} | {memory} |")
    return [*lines, "", f"Vanilla / SSIA; {_what(record)}. {_when(record)}"]


def processes_table(record: Record) -> list[str]:
    lines = [
        "| processes | step, CPU ms of each, vanilla / SSIA | gradients, MB a step, vanilla / SSIA |",
        "|---" * 3 + "|",
    ]
    for vanilla, ssia in zip(record["rows"][::2], record["rows"][1::2], strict=True):
        times, sizes = (
            " / ".join(f"{row[name]:.{digits}f}" for row in (vanilla, ssia))
            for name, digits in (("step_ms", 0), ("megabytes", 2))
        )
        lines.append(f"| {ssia['processes']} | {times} | {sizes} |")
    return [*lines, "", f"10 classes; {_what(record)}. {_when(record)}"]


def projection_table(found: dict[str, Record], target: Target) -> list[str]:
    """Compute the projection from the measured parts and the assumptions of `Target`."""
    small, large = found["images"]["rows"][-2:]
    grown = {
        name: (large[name] - small[name]) / (large["images"] - small["images"]) for name in ("identity", "peak_mb")
    }
    with torch.device("meta"):  # sizes alone
        model = timm.create_model(target.arch, num_classes=target.classes)
        loss = SSIATask(model, input_size=(3, 224, 224)).trainable_module.projection
    parameters, heads = (sum(p.numel() for p in module.parameters()) for module in (model, loss))
    compute = 1000 * target.batch_size / target.images_per_second
    ring = 2 * (target.gpus - 1) / target.gpus / target.bandwidth
    send, share = (1000 * 4 * count * ring for count in (parameters + heads, heads))
    step = max(compute, send)
    epoch = target.images / (target.gpus * target.batch_size) * step / 1000
    megabytes = grown["peak_mb"] * target.images
    rows = [
        (
            "start from a folder of all images",
            f"{grown['identity'] * target.images:.0f} s of CPU in each process",
            "slope of the last two sizes above",
        ),
        (
            "memory of the list",
            f"{megabytes / 1000:.1f} GB a process, {megabytes * target.gpus_per_node / 1000:.0f} GB a node",
            "slope of the last two sizes above; assumed not shared by processes",
        ),
        (
            f"gradients of {target.arch}, SSIA's heads",
            f"{4 * parameters / 1e6:.0f} MB, {4 * heads / 1e6:.0f} MB",
            "counted",
        ),
        (
            f"compute, {target.batch_size} images a GPU",
            f"{compute:.0f} ms a step",
            f"assumed {target.images_per_second:.0f} images/s a GPU",
        ),
        (
            "all-reduce, of which SSIA's heads",
            f"{send:.0f} ms, {share:.0f} ms",
            f"a ring's bytes at assumed {target.bandwidth / 1e9:.0f} GB/s; no latency",
        ),
        ("an epoch", f"{epoch:.0f} s", "all-reduce hidden behind backward, data never waited for: both assumed"),
        (
            "reading and decoding",
            f"{target.gpus * target.images_per_second / 100:,.0f} cores in all",
            "assumed 10 ms of a core per image",
        ),
    ]
    lines = ["| part | projected | from |", "|---" * 3 + "|"]
    return lines + [f"| {part} | {value} | {origin} |" for part, value, origin in rows]


def _what(record: Record) -> str:
    about = record["settings"]
    size, batch = about["image_size"], about["batch_size"]
    return f"`{about['arch']}` at {size} px, batch {batch} per process, AdamW, one thread per process"


def _when(record: Record) -> str:
    return f"{record['time'][:10]}, torch {record['versions']['torch']}; {machine_text(record['machine'])}."
