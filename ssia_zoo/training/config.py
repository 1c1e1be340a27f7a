"""Settings of a training run: one dataclass, filled from defaults, then a file, then command line flags."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

import tyro
import yaml
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass

from ssia_zoo.data import DataConfig
from ssia_zoo.data.preprocessing import Channels
from ssia_zoo.loss import RivalConfig, SSIAConfig
from ssia_zoo.loss.objectives import check_method_name
from ssia_zoo.validation import STRICT, Fraction, FractionAbove0, FractionBelow1, one_line_errors

_CONSTANTS = {"true": True, "false": False, "none": None, "null": None}


def read_pairs(words: list[str]) -> dict[str, Any]:
    """Parse `key=value` words; a value that is not a Python literal is a string, as in timm's train.py.

    Unlike there, true, false, none and null are constants in any case: the string "false" would count as true.
    """
    pairs = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals):
            raise ValueError(f"{word}: expected key=value, such as depths=[2,2,2,2]")  # tyro prints it and exits
        try:
            pairs[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pairs[key] = _CONSTANTS.get(text.lower(), text)
    return pairs


Pairs = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[KEY=VALUE ...]",
        instance_from_str=read_pairs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda pairs: [f"{key}={value!r}" for key, value in pairs.items()],
    ),
]
"""Arguments as `key=value` words on the command line, or as a mapping in a file."""


def _ascending(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if list(epochs) != sorted(set(epochs)):
        raise ValueError("epochs in ascending order")
    return epochs


Milestones = Annotated[tuple[PositiveInt, ...], AfterValidator(_ascending)]


class AutoBatchSize(int):
    """The value of `batch_size` auto: the first size to try."""


AUTO = AutoBatchSize(128)


def _batch_size(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Accept "auto" where `check` accepts numbers."""
    return value if isinstance(value, AutoBatchSize) else AUTO if value == "auto" else check(value)


BatchSize = Annotated[
    PositiveInt,
    WrapValidator(_batch_size),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT|auto",
        instance_from_str=lambda words: AUTO if words[0] == "auto" else int(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: ["auto" if isinstance(value, AutoBatchSize) else str(value)],
    ),
]


def _depth(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise ValueError("a number of stages of at least 0, or head") from None


Depth = Annotated[NonNegativeInt | Literal["head"], WrapValidator(_depth)]
Precision = Literal["no", "bf16", "fp16"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


@one_line_errors()
@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig(DataConfig):
    """Train or fine-tune a timm classifier, with or without the SSIA loss.

    Examples:
      train_hf.py --model resnet18 --dataset uoft-cs/cifar10 --image-size 32 --epochs 30 --output-dir runs/r18
      train_hf.py --config hub_configs/mobilenetv3_small_050_ssia.digits_r32.json --output-dir runs/again
    """

    dataset: str = ""
    """Hub id, folder of parquet files, of images (one folder per class) or of webdataset shards, or "digits".
    Required."""
    model: str = ""
    """timm model name, local-dir:FOLDER, or hf-hub:org/name. Required."""
    output_dir: Annotated[str, AfterValidator(os.path.expanduser)] = ""
    """Folder for all output files, outside the data's. Required."""
    pretrained: bool = False
    """Start from the model's pretrained weights (fine-tuning)."""
    model_kwargs: Pairs = field(default_factory=dict)
    """Arguments of the architecture, such as depths=[2,2,2,2] or block_args={'attn_layer':'cbam'}; saved in
    config.json, so that timm alone builds the same model."""
    in_chans: Channels | None = None
    """Channels of the model's input: 1 (greyscale), 3 (RGB) or 4 (RGB and transparency); if None, those of the model.
    timm adapts pretrained weights of the first layer."""
    freeze: tyro.conf.DisallowNone[Depth | None] = None
    """Freeze part of the pretrained model: head: all but the classifier; N: the stem and the first N stages (blocks of
    a ViT)."""
    lora: tyro.conf.DisallowNone[PositiveInt | None] = None
    """Train the classifier, and LoRA adapters of this rank on the pretrained model's linear layers and convolutions,
    which are merged into the saved weights (requires peft)."""
    probe: bool = False
    """Fit only the classifier, by logistic regression on features of the pretrained model that are computed once: a
    linear probe, without epochs."""
    probe_flip: bool = False
    """Fit the probe on the flipped training images too."""
    method: Annotated[str, AfterValidator(check_method_name)] = "ssia"
    """Training objective: ssia, vanilla, a rival (docs/rivals.md): sad, at, dsn, byot, dks; distillation from
    --teacher: logit-kd, feature-kd; or a loss of your own (docs/losses.md): package.module:Class, or its name."""
    method_kwargs: Pairs = field(default_factory=dict)
    """Settings of the objective, such as heads=convolutional for byot and dks, or temperature=4 for logit-kd."""
    teacher: str | None = None
    """Trained model that logit-kd and feature-kd learn from: a name or folder, as for --model."""
    ssia: SSIAConfig = field(default_factory=SSIAConfig)
    rival: RivalConfig = field(default_factory=RivalConfig)

    batch_size: BatchSize = 128
    """Images per process and step; auto: 128, halved until a training step fits in memory."""
    epochs: PositiveInt = 30
    """Passes over the training split."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimizer steps; does not change the learning rate schedule."""
    optimizer: str = "adamw"
    """Name of a timm optimizer."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate. timm's cosine also decays during the warm-up, so a short run stays below the peak."""
    lr_base: PositiveFloat | None = None
    """Peak learning rate for a global batch of --lr-base-size images; replaces --lr by a value scaled to the global
    batch."""
    lr_base_size: PositiveInt = 256
    """Global batch size (batch size x accumulation steps x processes) for --lr-base."""
    lr_base_scale: Literal["linear", "sqrt"] | None = None
    """Scaling of --lr-base with the global batch; if None, as timm: sqrt for ada* and lamb optimizers, else linear."""
    momentum: FractionBelow1 = 0.9
    """Momentum, for optimizers that use it."""
    opt_betas: tuple[FractionBelow1, ...] = ()
    """Betas, for optimizers that use them; if not set, the optimizer's own."""
    opt_eps: PositiveFloat | None = None
    """Epsilon, for optimizers that use it; if None, the optimizer's own."""
    opt_kwargs: Pairs = field(default_factory=dict)
    """Other arguments of the optimizer, such as amsgrad=True, or fused=False for torch's other form of it."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay; not applied to biases, norms and parameters that the model excludes."""
    layer_decay: FractionAbove0 | None = None
    """Layer-wise learning rate decay for fine-tuning: factor from each layer to the one below it."""
    head_lr: tyro.conf.DisallowNone[PositiveFloat | None] = None
    """Peak learning rate of the classifier, which follows the same schedule; if None, --lr. Neither --lr-base nor
    --layer-decay changes it."""
    schedule: Literal["cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant"] = "cosine"
    """timm's learning rate schedule after the warm-up; wsd is warm-up-stable-decay."""
    decay_epochs: PositiveFloat | None = None
    """step: epochs between decays (90 if None); wsd, rsqrt: length of the decay, in epochs or as a fraction of training
    (0.2 if None)."""
    decay_milestones: Milestones = ()
    """multistep: epochs of the decays."""
    decay_rate: PositiveFloat = 0.1
    """step, multistep: factor of each decay; poly: the power."""
    warmup_epochs: NonNegativeFloat | None = None
    """Epochs of linear learning rate warm-up; if None, 1 or half of --epochs, whichever is less."""
    warmup_lr: NonNegativeFloat | None = None
    """Learning rate at the start of the warm-up; if None, 0.1 % of the peak."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of training."""
    accumulation_steps: tyro.conf.DisallowNone[PositiveInt | None] = None
    """Batches per optimizer step (gradient accumulation); if None, the launcher's, else 1."""
    clip_grad: PositiveFloat | None = None
    """Gradient clipping threshold (see --clip-mode)."""
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    """Gradient clipping: norm: total norm; value: each value; agc: norm of each unit relative to its weights."""
    ema: FractionBelow1 | None = None
    """Decay of an exponential moving average of the weights, which is then evaluated and saved."""
    ema_warmup: bool = True
    """Increase the EMA decay over training up to --ema, as timm's use_warmup."""
    smoothing: FractionBelow1 = 0.0
    """Label smoothing."""
    bce_loss: bool = False
    """Use binary cross-entropy per class instead of softmax cross-entropy."""
    bce_target_thresh: FractionBelow1 | None = None
    """Set targets above this threshold to 1 and others to 0 (requires --bce-loss)."""
    bce_sum: bool = False
    """Sum over classes instead of averaging (requires --bce-loss)."""
    class_weights: str | None = None
    """Weight of each class in the loss: auto for the inverse of its frequency, or a CSV, JSON or YAML file of names and
    weights; evaluation is not weighted."""
    mixup: NonNegativeFloat = 0.0
    """Mixup alpha."""
    cutmix: NonNegativeFloat = 0.0
    """CutMix alpha."""
    mixup_prob: Fraction = 1.0
    """Probability of mixup or CutMix per batch, pair or element."""
    mixup_switch_prob: Fraction = 0.5
    """Probability of CutMix where both are enabled."""
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    """Apply mixup or CutMix per batch, pair of images, or element."""
    mixup_off_epoch: NonNegativeInt = 0
    """Disable mixup and CutMix after this many epochs; 0: never."""
    drop_rate: FractionBelow1 | None = None
    """Dropout rate before the classifier; if None, that of the model."""
    drop_path_rate: FractionBelow1 | None = None
    """Stochastic depth rate; if None, that of the model."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial weights, the data order and the augmentation."""
    mixed_precision: tyro.conf.DisallowNone[Precision | None] = None
    """Mixed precision; if None, the launcher's, else no. On CPUs without bf16 instructions (AVX512-BF16, AMX, Arm's
    BF16), bf16 is many times slower than no."""
    tf32: bool = True
    """Train with TensorFloat-32 where operations are in float32 (NVIDIA GPUs since Ampere); not used in evaluations."""
    channels_last: bool = False
    """Use the channels_last memory format, which suits convolutions."""
    compile: tyro.conf.DisallowNone[bool | None] = None
    """Compile the model with torch.compile; if None, only if the launcher sets a dynamo backend."""
    compile_backend: tyro.conf.DisallowNone[str | None] = None
    """Backend of torch.compile; if None, the launcher's, else inductor."""
    compile_mode: tyro.conf.DisallowNone[CompileMode | None] = None
    """Mode of torch.compile; if None, the launcher's, else default."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass (gradient checkpointing): less memory, more time."""
    sync_bn: bool = False
    """Synchronize BatchNorm across processes (GPUs only)."""
    ddp_static_graph: bool = False
    """Let DDP assume that each step uses the same parameters in the same way, which saves time."""
    ddp_compression: Literal["no", "bf16"] = "no"
    """Precision of the gradients that processes exchange (DDP): bf16 halves what is sent."""

    eval_only: bool = False
    """Evaluate the weights of --model without training, and write metrics.json."""
    val_interval: NonNegativeInt = 1
    """Epochs between evaluations; 0: evaluate only after training, as for a test split."""
    keep_best: bool = False
    """Save the weights of the evaluation with the highest top-1 (mAP for several labels) instead of the last; not on a
    test split."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations in a row without a higher top-1 (mAP); not on a test split."""
    resume: Annotated[str, AfterValidator(os.path.expanduser)] | None = None
    """Resume a run: auto for the newest checkpoint in --output-dir, or the path of a checkpoint."""
    checkpoint_every: PositiveInt | None = None
    """Optimizer steps between checkpoints; if None, one checkpoint per epoch."""
    keep_checkpoints: PositiveInt = 2
    """Number of checkpoints to keep; older ones are deleted."""
    with_tracking: bool = False
    """Log to an experiment tracker."""
    tracker: str = "tensorboard"
    """Name of a tracker that Accelerate supports."""
    profile: PositiveInt | None = None
    """Write a torch profiler trace of this many optimizer steps to --output-dir."""

    push_to_hub: bool = False
    """Push the result to the Hugging Face Hub."""
    hub_model_id: str | None = None
    """Hub repository, org/name."""
    hub_private: bool = False
    """Create a private repository."""
    push_every: PositiveInt | None = None
    """Epochs between pushes during training; if None, push once, at the end."""

    @property
    def batches_per_step(self) -> int:
        """`accumulation_steps`, or 1 if it is not set."""
        return self.accumulation_steps or 1

    @property
    def selects(self) -> bool:
        """Whether scores on the evaluation images decide which weights are saved."""
        return self.keep_best or self.patience is not None

    def decisive_settings(self) -> dict[str, Any]:
        """Return the settings that affect the trained weights, ready for JSON; those of output are left out."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        of_output = set(_OUTPUT_SETTINGS) - ({"val_interval"} if self.selects else set())
        return {name: value for name, value in settings.items() if name not in of_output}

    def to_yaml(self) -> str:
        """Return all settings as a file for `--config`."""
        return yaml.safe_dump(json.loads(json.dumps(asdict(self))), sort_keys=False)


BEFORE_PIXELS = {"pixels": "pil"}
"""The path of the training images in runs that are older than the setting."""


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of settings that the `decisive_settings()` of an older version lack, in groups too."""
    complete = TrainConfig().decisive_settings() | BEFORE_PIXELS
    for name, value in settings.items():
        default = complete.get(name)
        complete[name] = {**default, **value} if isinstance(default, dict) and isinstance(value, dict) else value
    return fill_unset(complete)


def fill_unset(settings: dict[str, Any]) -> dict[str, Any]:
    """Give settings their defaults that neither the user nor a launcher has set."""
    defaults: dict[str, Any] = {"mixed_precision": "no", "accumulation_steps": 1, "compile": False}
    if settings.get("compile"):
        defaults |= {"compile_backend": "inductor", "compile_mode": "default"}
    return settings | {name: value for name, value in defaults.items() if settings.get(name) is None}


_OUTPUT_SETTINGS = (
    *("output_dir", "resume", "checkpoint_every", "keep_checkpoints", "with_tracking", "tracker"),
    "profile",
    *("push_to_hub", "hub_model_id", "hub_private", "push_every", "val_interval", "eval_only"),
)
