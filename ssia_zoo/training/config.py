"""Settings of a training run: one dataclass, filled from defaults, then a file, then flags."""

from __future__ import annotations

import ast
import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import tyro
import yaml

from ssia_zoo.data import DataConfig
from ssia_zoo.loss import RivalConfig
from ssia_zoo.loss.ssia import SSIAConfig

_log = logging.getLogger(__name__)


def _read_pairs(words: list[str]) -> dict[str, Any]:
    """Read `key=value` words; a value that is no Python literal is a string, as in timm's train.py."""
    pairs = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals):
            raise ValueError(f"{word}: expected key=value, such as depths=[2,2,2,2]")  # tyro says it and exits
        try:
            pairs[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pairs[key] = text
    return pairs


Pairs = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[KEY=VALUE ...]",
        instance_from_str=_read_pairs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda pairs: [f"{key}={value!r}" for key, value in pairs.items()],
    ),
]
"""Arguments as `key=value` words on the command line and as a mapping in a file."""

Precision = Literal["no", "bf16", "fp16"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
    """Train or fine-tune a timm classifier, with the SSIA loss or without.

    Examples:
      train_hf.py --model resnet18 --dataset uoft-cs/cifar10 --image-size 32 --epochs 30 --output-dir runs/r18
      train_hf.py --config hub_configs/mobilenetv3_small_050_ssia.digits_r32.json --output-dir runs/again
    """

    dataset: str = ""
    """Hub id, folder of parquet files, folder of images (one folder a class), or "digits"; required"""
    model: str = ""
    """timm model, `local-dir:FOLDER` or `hf-hub:org/name`; required"""
    output_dir: str = ""
    """folder for everything the run writes; required"""
    pretrained: bool = False
    """start from the model's published weights (fine-tune) instead of from scratch"""
    model_kwargs: Pairs = field(default_factory=dict)
    """arguments of the architecture, such as `depths=[2,2,2,2]` or `block_args={'attn_layer':'cbam'}`; recorded in
    config.json, so that plain timm builds the same model"""
    method: str = "ssia"
    """training objective: ssia, vanilla, or a rival of docs/rivals.md: sad, at, dsn, byot, dks"""
    ssia: SSIAConfig = field(default_factory=SSIAConfig)
    rival: RivalConfig = field(default_factory=RivalConfig)

    epochs: int = 30
    """passes over the training split"""
    max_steps: int | None = None
    """stop after this many optimizer steps, if the epochs have not ended before; the learning rate's schedule stays"""
    optimizer: str = "adamw"
    """any of timm's optimizers"""
    lr: float = 1e-3
    """peak learning rate; timm's cosine falls during the warm-up too, so that a short run stays below it"""
    lr_base: float | None = None
    """peak learning rate for a global batch of --lr-base-size; if given, --lr is computed from it"""
    lr_base_size: int = 256
    """global batch (batch size x accumulation steps x processes) that --lr-base is meant for"""
    lr_base_scale: Literal["linear", "sqrt"] | None = None
    """how --lr grows with the global batch; if not given, as timm: sqrt for ada… and lamb, else linear"""
    momentum: float = 0.9
    """for optimizers that have it"""
    weight_decay: float = 0.05
    """not applied to biases, norms and what the model itself exempts"""
    layer_decay: float | None = None
    """factor of the learning rate from each layer to the one below it, as for fine-tuning"""
    schedule: Literal["cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant"] = "cosine"
    """of the learning rate, after a warm-up, by timm; wsd is warm-up-stable-decay"""
    decay_epochs: float | None = None
    """step: epochs between decays (90); wsd and rsqrt: length of the decay, in epochs or as a fraction (0.2)"""
    decay_milestones: tuple[int, ...] = ()
    """multistep: epochs at which the learning rate decays"""
    decay_rate: float = 0.1
    """step and multistep: factor of each decay; poly: the power, as in timm"""
    warmup_epochs: float | None = None
    """epochs over which the learning rate rises linearly; 1 (half of --epochs, if fewer)"""
    warmup_lr: float | None = None
    """learning rate at the start of the warm-up; 0.1 % of its peak if not given"""
    min_lr: float = 0.0
    """learning rate at the end"""
    accumulation_steps: tyro.conf.DisallowNone[int | None] = None
    """batches whose gradients make one optimizer step; the launcher's, else 1, if not given"""
    clip_grad: float | None = None
    """clip gradients to this norm or value, or by this factor"""
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    """what --clip-grad limits: the norm of all gradients, each value, or each unit's norm by its weights' (agc)"""
    ema: float | None = None
    """decay of an exponential moving average of the weights, which then is what is evaluated and saved"""
    ema_warmup: bool = True
    """let the average start short, and lengthen as timm's use_warmup does"""
    smoothing: float = 0.0
    """label smoothing"""
    bce_loss: bool = False
    """binary cross-entropy a class, not softmax cross-entropy"""
    bce_target_thresh: float | None = None
    """with --bce-loss: targets above this count as 1 and the others as 0"""
    bce_sum: bool = False
    """with --bce-loss: sum over the classes, not their mean"""
    mixup: float = 0.0
    """mixup alpha"""
    cutmix: float = 0.0
    """cutmix alpha"""
    mixup_prob: float = 1.0
    """probability that a batch (pair, element) is mixed at all"""
    mixup_switch_prob: float = 0.5
    """probability of cutmix where both are on"""
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    """what shares one mixing: the batch, each pair of images, or each image alone"""
    mixup_off_epoch: int = 0
    """mix no more after this many epochs; 0: mix to the end"""
    drop_rate: float | None = None
    """dropout before the classifier; the model's own if not given"""
    drop_path_rate: float | None = None
    """stochastic depth; the model's own if not given"""

    seed: int = 0
    """of the initial weights, the data order and the augmentation"""
    mixed_precision: tyro.conf.DisallowNone[Precision | None] = None
    """autocast; the launcher's, else no, if not given; on a CPU without bf16 instructions (AVX512-BF16, AMX, Arm's
    BF16) bf16 is many times slower than no"""
    channels_last: bool = False
    """memory format that suits convolutions"""
    compile: tyro.conf.DisallowNone[bool | None] = None
    """compile the model with torch.compile; if not given, where the launcher names a dynamo backend"""
    compile_backend: tyro.conf.DisallowNone[str | None] = None
    """backend of torch.compile; the launcher's, else inductor, if not given"""
    compile_mode: tyro.conf.DisallowNone[CompileMode | None] = None
    """mode of torch.compile; the launcher's, else default, if not given"""
    grad_checkpointing: bool = False
    """compute activations again in the backward pass: less memory, more time"""
    sync_bn: bool = False
    """BatchNorm over the batches of all processes; needs GPUs"""

    eval_only: bool = False
    """train nothing: evaluate the weights of --model and write metrics.json"""
    val_interval: int = 1
    """epochs between evaluations, one more at the end; 0: only at the end, so that a test split is looked at once"""
    resume: str | None = None
    """continue a stopped run: `auto` takes the newest checkpoint of --output-dir, or give a checkpoint's path"""
    checkpoint_every: int | None = None
    """optimizer steps between checkpoints; once an epoch if not given"""
    keep_checkpoints: int = 2
    """older checkpoints are deleted"""
    with_tracking: bool = False
    """report to an experiment tracker"""
    tracker: str = "tensorboard"
    """any of Accelerate's trackers"""

    push_to_hub: bool = False
    """publish the result on the Hugging Face Hub"""
    hub_model_id: str | None = None
    """repository, org/name"""
    hub_private: bool = False
    """create the repository as a private one"""
    push_every: int | None = None
    """epochs between pushes during training; only at the end if not given"""

    @property
    def batches_per_step(self) -> int:
        """`accumulation_steps`, or 1 while it is open."""
        return self.accumulation_steps or 1

    def experiment(self) -> dict[str, Any]:
        """The settings that decide the trained weights: all but where they go. JSON-ready."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in settings.items() if name not in _OUTPUT_FIELDS}

    def to_yaml(self) -> str:
        """Every setting, as `--config` takes it."""
        return yaml.safe_dump(json.loads(json.dumps(asdict(self))), sort_keys=False)


def complete(experiment: dict[str, Any]) -> dict[str, Any]:
    """An older version's `TrainConfig.experiment()`: what was not there yet counts as its default, in groups too."""
    whole = TrainConfig().experiment()
    for name, value in experiment.items():
        default = whole.get(name)
        whole[name] = {**default, **value} if isinstance(default, dict) and isinstance(value, dict) else value
    return filled(whole)


def filled(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which what neither the user nor a launcher has chosen has its default."""
    defaults: dict[str, Any] = {"mixed_precision": "no", "accumulation_steps": 1, "compile": False}
    if settings.get("compile"):
        defaults |= {"compile_backend": "inductor", "compile_mode": "default"}
    return settings | {name: value for name, value in defaults.items() if settings.get(name) is None}


_OUTPUT_FIELDS = (
    *("output_dir", "resume", "checkpoint_every", "keep_checkpoints", "with_tracking", "tracker"),
    *("push_to_hub", "hub_model_id", "hub_private", "push_every", "val_interval", "eval_only"),
)
