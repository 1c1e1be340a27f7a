"""The experiments of gpu.py, the most valuable first, with the flags of train_hf.py and of timm's train.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDERS = {"photos256": ((256, 256), 24_000), "photos512": ((512, 384), 24_000), "photos32": ((32, 32), 40_000)}
"""Size and number of the training images; those of 256 pixels are decoded fast enough for a GPU's training."""

_MODELS = {"resnet50": ("resnet50", 256), "vit_small": ("vit_small_patch16_224", 256)}
_LOOPS = {"vanilla": "vanilla", "ssia": "SSIA", "ours": "train_hf.py", "timm": "timm's train.py"}
_BF16 = ("--mixed-precision", "bf16")
_TIMM_BF16 = ("--amp", "--amp-dtype", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A process that is timed."""

    name: str
    title: str
    model: str
    image_size: int
    batch_size: int
    loop: Literal["ours", "timm", "evaluate"] = "ours"
    method: str = "vanilla"
    flags: tuple[str, ...] = ()
    """of the loop, on top of the common ones"""
    folder: str = "photos256"
    launcher: str = "python"
    warm_up: int = 15
    """steps before those that are timed"""
    steps: int = 40
    """steps that are timed"""
    workers: int = 16
    seconds: float = 20
    """left out if less time is left (an estimate)"""
    needs_gpu: bool = False
    device: str = "cuda"

    def child(self, data: Path, out: Path, timm_train: Path | None) -> list[str]:
        """Return the arguments of gpu_child.py."""
        own = [self.loop, str(self.warm_up), str(self.steps), str(self.batch_size)]
        if self.loop == "evaluate":
            return [*own, self.model, str(data), str(self.image_size), str(self.workers)]
        if self.loop == "timm":
            return [*own, str(timm_train), *self._timm_flags(data, out), *self.flags]
        return [*own, *self._flags(data, out), *self.flags]

    def _flags(self, data: Path, out: Path) -> list[str]:
        return [
            *("--model", self.model, "--dataset", str(data), "--image-size", str(self.image_size)),
            *("--batch-size", str(self.batch_size), "--method", self.method, "--epochs", "1", "--warmup-epochs", "0"),
            *("--val-interval", "0", "--workers", str(self.workers), "--output-dir", str(out)),
        ]

    def _timm_flags(self, data: Path, out: Path) -> list[str]:
        classes = sum(1 for path in (data / "train").iterdir() if path.is_dir())
        return [
            *("--model", self.model, "--data-dir", str(data), "--num-classes", str(classes)),
            *("--img-size", str(self.image_size), "--batch-size", str(self.batch_size), "--opt", "adamw"),
            *("--lr", "1e-3", "--weight-decay", "0.05", "--epochs", "1", "--warmup-epochs", "0", "--sched-on-updates"),
            *("--smoothing", "0", "--color-jitter", "0", "--train-interpolation", "bicubic", "--pin-mem"),
            *("--workers", str(self.workers), "--device", self.device, "--output", str(out)),
        ]


def experiments(dry_run: bool) -> list[Experiment]:
    """Return all experiments, the most valuable first; for a dry run those of a CPU, tiny."""
    found = [
        *(_eager(short, loop) for short in _MODELS for loop in ("vanilla", "ssia", "timm")),
        _data("ours", *_BF16, "--channels-last"),
        _data("timm", *_TIMM_BF16, "--channels-last"),
        *(_compiled(short, method) for short in _MODELS for method in ("vanilla", "ssia")),
        *_others(),
    ]
    return [_tiny(one) for one in found] if dry_run else found


def _eager(short: str, loop: str) -> Experiment:
    model, batch = _MODELS[short]
    timm = loop == "timm"
    return Experiment(
        name=f"{short}-{loop}-eager",
        title=f"`{model}`, bf16, {_LOOPS[loop]}",
        model=model,
        image_size=224,
        batch_size=batch,
        loop="timm" if timm else "ours",
        method="vanilla" if timm else loop,
        flags=(*(_TIMM_BF16 if timm else _BF16), "--channels-last"),
    )


def _compiled(short: str, method: str) -> Experiment:
    model, batch = _MODELS[short]
    return Experiment(
        name=f"{short}-{method}-compiled",
        title=f"`{model}`, bf16, {_LOOPS[method]}, compiled",
        model=model,
        image_size=224,
        batch_size=batch,
        method=method,
        flags=(*_BF16, "--channels-last", "--compile"),
        seconds=70,
    )


def _data(loop: Literal["ours", "timm"], *flags: str) -> Experiment:
    return Experiment(
        name=f"data-{loop}",
        title=f"JPEGs of 512x384, bound by data, {_LOOPS[loop]}",
        model="test_resnet",
        image_size=224,
        batch_size=64,
        loop=loop,
        flags=flags,
        folder="photos512",
        warm_up=60,  # more than the workers load ahead
        steps=240,
    )


def _others() -> list[Experiment]:
    resnet, vit = ({"model": model, "image_size": 224, "batch_size": batch} for model, batch in _MODELS.values())
    ddp = ("--sync-bn", "--ddp-static-graph", "--ddp-compression", "bf16")
    cached = {"model": "resnet18", "image_size": 32, "batch_size": 512, "folder": "photos32", "workers": 0}
    return [
        Experiment(
            name="resnet50-fp16",
            title="`resnet50`, fp16, vanilla",
            flags=("--mixed-precision", "fp16", "--channels-last"),
            needs_gpu=True,
            **resnet,
        ),
        Experiment(
            name="vit_small-fsdp2",
            title="`vit_small_patch16_224`, bf16, SSIA, FSDP2, one process",
            method="ssia",
            flags=_BF16,
            launcher="fsdp2",
            needs_gpu=True,
            seconds=30,
            **vit,
        ),
        Experiment(
            name="resnet50-ddp",
            title="`resnet50`, bf16, SSIA, DDP with one process: SyncBN, static graph, bf16 gradients",
            method="ssia",
            flags=(*_BF16, "--channels-last", *ddp),
            launcher="torchrun",
            needs_gpu=True,
            seconds=30,
            **resnet,
        ),
        Experiment(
            name="cached",
            title="`resnet18` at 32 px, bf16, vanilla, `--cache-images`",
            flags=(*_BF16, "--channels-last", "--cache-images", "--crop-padding", "4"),
            **cached,
        ),
        Experiment(name="evaluate", title="`resnet50`, float32, evaluation", loop="evaluate", **resnet),
    ]


def _tiny(one: Experiment) -> Experiment:
    """Return an experiment that takes a CPU seconds."""
    flags = list(one.flags)
    if "--compile" in flags:
        flags += ["--compile-backend", "eager"]
    if one.loop == "timm" and "--amp" in flags:
        flags = flags[3:]
    values = {"model": "test_vit" if "vit" in one.model else "test_resnet", "image_size": 32, "batch_size": 8}
    small = {"warm_up": 2, "steps": 3, "workers": min(one.workers, 1), "seconds": 1.0, "device": "cpu"}
    return Experiment(**{**vars(one), **values, **small, "flags": tuple(flags)})
