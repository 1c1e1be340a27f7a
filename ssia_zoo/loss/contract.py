"""Check that a loss keeps the contract of `AuxiliaryLoss`, on a small network and random tensors, without timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import AuxiliaryLoss, StageShape, describe_terms
from ssia_zoo.loss.objectives import check_keywords, checked_class, describe_error
from ssia_zoo.loss.trial import (
    BATCH,
    CLASSES,
    SHAPES,
    Both,
    Terms,
    build_network,
    gradients_in_two_processes,
    images_and_labels,
    random_inputs,
    random_states,
    terms_of,
    train,
)

Make = Callable[[Sequence[StageShape]], AuxiliaryLoss]


class _Broken(Exception):
    """A clause of the contract is not kept; the text says how."""


@dataclass(frozen=True)
class ContractReport:
    """Result of `check`; printing it shows one line per clause."""

    loss: str
    """Name of the class."""
    clauses: Mapping[str, str | None]
    """How each clause is broken; None where it is kept."""

    @property
    def failures(self) -> dict[str, str]:
        """The clauses that are not kept, and how."""
        return {clause: failure for clause, failure in self.clauses.items() if failure is not None}

    @property
    def passed(self) -> bool:
        """Whether all clauses are kept."""
        return not self.failures

    def raise_for_failures(self) -> None:
        """Raise an error that names the clauses that are not kept, if any.

        Raises:
            ConfigError: There are some.
        """
        if self.failures:
            listed = "; ".join(f"{clause}: {failure}" for clause, failure in self.failures.items())
            raise ConfigError(f"{self.loss} breaks the contract of AuxiliaryLoss: {listed}")

    def __str__(self) -> str:
        width = max(map(len, self.clauses))
        lines = [f"{clause:{width}}  {failure or 'ok'}" for clause, failure in self.clauses.items()]
        count = len(self.failures)
        return "\n".join([*lines, f"{self.loss}: " + (f"{count} clauses broken" if count else "all clauses kept")])


def check(loss: type[AuxiliaryLoss], *, processes: bool = False, **keywords: Any) -> ContractReport:
    """Check that a loss can be trained with as `ssia_zoo.task.AuxiliaryTask` does.

    Args:
        loss: The class.
        processes: Whether to also train in two processes (gloo), which takes some seconds.
        **keywords: Settings for the constructor.

    Returns:
        The clauses, and how those that are not kept are broken.

    Raises:
        ConfigError: `loss` is not a subclass of `AuxiliaryLoss`, or has no such setting.

    Examples:
        >>> from ssia_zoo.loss import DSNLoss
        >>> check(DSNLoss, hidden=16).passed
        True
    """
    path = f"{getattr(loss, '__module__', '')}:{getattr(loss, '__qualname__', loss)}"
    check_keywords(checked_class(loss, path), keywords, path)

    def make(shapes: Sequence[StageShape] = SHAPES) -> AuxiliaryLoss:
        built = loss(shapes, CLASSES, **keywords)
        built.set_progress(0.5)
        return built

    clauses: dict[str, str | None] = {}
    with torch.random.fork_rng(devices=[]):
        for clause, test in _CLAUSES.items():
            clauses[clause] = _failure(test, make)
            if clause == "construction" and clauses[clause]:
                return ContractReport(path, clauses)  # nothing else can be checked
        if processes:
            clauses["two processes"] = gradients_in_two_processes(loss, keywords)
    return ContractReport(path, clauses)


def _failure(test: Callable[[Make], None], make: Make) -> str | None:
    try:
        torch.manual_seed(0)
        test(make)
    except _Broken as broken:
        return str(broken)
    except Exception as error:  # a loss may raise anything
        return f"raises {describe_error(error)}"
    return None


def _checked_terms(loss: AuxiliaryLoss, features: Sequence[Tensor], logits: Tensor, labels: Tensor) -> Terms:
    terms = terms_of(loss, features, logits, labels)
    if problem := describe_terms(terms, loss.name):
        raise _Broken(problem)
    return terms


# --- The clauses ------------------------------------------------------------------------------------------------------


def _construction(make: Make) -> None:
    """It can be built for three stages."""
    make(SHAPES)


def _random_state(make: Make) -> None:
    """Neither construction nor forward advances a global random state."""
    before = random_states()
    loss = make(SHAPES)
    if random_states() != before:
        raise _Broken("construction advances a global random state; wrap it in torch.random.fork_rng(devices=[])")
    terms_of(loss, *random_inputs())
    if random_states() != before:
        raise _Broken("forward advances a global random state; use a torch.Generator of the loss")


def _scalars(make: Make) -> None:
    """The terms are finite scalars in float32, also for dead and large maps, and so are the gradients."""
    for scale, kind in ((1.0, "random"), (0.0, "zero"), (1e3, "large")):
        loss = make(SHAPES)
        features, logits, labels = random_inputs()
        features = [(scale * feature).requires_grad_() for feature in features]
        logits = (scale * logits).requires_grad_()
        terms = _checked_terms(loss, features, logits, labels)
        if bad := [name for name, term in terms.items() if not term.isfinite()]:
            raise _Broken(f"{bad[0]} is {terms[bad[0]].item()} for {kind} feature maps")
        inputs = [*features, logits, *loss.parameters()]
        gradients = torch.autograd.grad(terms[loss.name], inputs, allow_unused=True)
        if not all(gradient.isfinite().all() for gradient in gradients if gradient is not None):
            raise _Broken(f"gradients are not finite for {kind} feature maps")


def _gradients(make: Make) -> None:
    """The gradient reaches the network only where `gradient_to` promises it."""
    loss = make(SHAPES)
    features, logits, labels = random_inputs()
    inputs = [tensor.requires_grad_() for tensor in (*features, logits)]
    gradients = torch.autograd.grad(terms_of(loss, features, logits, labels)[loss.name], inputs, allow_unused=True)
    reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    found = {"lower": any(reached[:-2]), "deepest": reached[-2], "logits": reached[-1]}
    for recipient, is_reached in found.items():
        if is_reached and recipient not in loss.gradient_to:
            raise _Broken(
                f"the gradient reaches {_RECIPIENTS[recipient]}, which gradient_to {tuple(loss.gradient_to)} does not "
                "name; detach it or name it"
            )
    if not any(reached):
        raise _Broken("the gradient reaches nothing of the network")


_RECIPIENTS = {"lower": "the lower stages", "deepest": "the deepest feature map", "logits": "the final logits"}


def _heads(make: Make) -> None:
    """Every trainable parameter of the heads gets a gradient, as DDP requires."""
    loss = make(SHAPES)
    features, logits, labels = random_inputs()
    inputs = [tensor.requires_grad_() for tensor in (*features, logits)]
    torch.autograd.backward(terms_of(loss, inputs[:-1], inputs[-1], labels)[loss.name])
    unused = [name for name, parameter in loss.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if unused:
        raise _Broken(f"parameter {unused[0]} gets no gradient; remove it or set requires_grad to False")


def _images(make: Make) -> None:
    """The terms of a batch are the means of those of its images, in train mode."""
    loss = make(SHAPES)
    features, logits, labels = random_inputs()
    alone = [
        terms_of(loss, [f[i : i + 1] for f in features], logits[i : i + 1], labels[i : i + 1]) for i in range(BATCH)
    ]
    for name, term in terms_of(loss, features, logits, labels).items():
        mean = torch.stack([terms[name] for terms in alone]).mean()
        if not torch.allclose(term, mean, rtol=1e-4, atol=1e-6):
            raise _Broken(
                f"{name} is {term.item():.6g} for a batch, but {mean.item():.6g} as the mean over its images: use no "
                "statistics across images (such as BatchNorm's), and means over images"
            )


def _lambda_zero(make: Make) -> None:
    """With lambda 0, the network trains to the same bits as without the loss."""
    vanilla, trained = train(None), train(make(SHAPES))
    if changed := [name for name, value in vanilla.items() if not torch.equal(value, trained[name])]:
        raise _Broken(f"with lambda 0 the network's {changed[0]} differs from that of training without the loss")


def _autocast(make: Make) -> None:
    """Under bf16 autocast, the terms are close to those in float32, and in float32."""
    loss = make(SHAPES)
    features, logits, labels = random_inputs()
    half = [feature.bfloat16() for feature in features], logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        actual = _checked_terms(loss, *half, labels)
    for name, expected in terms_of(loss, [f.float() for f in half[0]], half[1].float(), labels).items():
        if not torch.allclose(actual[name], expected, rtol=0.03, atol=1e-3):
            raise _Broken(f"{name} is {actual[name].item():.4g} under autocast, but {expected.item():.4g} in float32")


def _one_position(make: Make) -> None:
    """Stages with one position work, or are refused by a ConfigError; so does a batch of one image."""
    deepest: list[StageShape] = [*SHAPES[:-1], (16, 1, 1)]
    for shapes in (deepest, [(shape[0], 1, 1) for shape in SHAPES]):
        try:
            loss = make(shapes)
        except ConfigError:
            continue
        for batch in (1, 2):
            terms = _checked_terms(loss, *random_inputs(shapes, batch))
            if not all(term.isfinite() for term in terms.values()):
                raise _Broken(f"the terms are not finite for stages {shapes} and {batch} images; raise a ConfigError")


def _compile(make: Make) -> None:
    """torch.compile takes it without a graph break, and computes the same."""
    module = Both(build_network(), make(SHAPES)).eval()
    images, labels = images_and_labels()
    torch.compiler.reset()
    try:
        actual = torch.compile(module, backend="aot_eager", fullgraph=True)(images, labels)[1]
        torch.autograd.backward(actual[module.loss.name])
    finally:
        torch.compiler.reset()
    for name, expected in module(images, labels)[1].items():
        if not torch.allclose(actual[name], expected, rtol=1e-4, atol=1e-6):
            raise _Broken(f"{name} is {actual[name].item():.6g} if compiled, else {expected.item():.6g}")


_CLAUSES: dict[str, Callable[[Make], None]] = {
    "construction": _construction,
    "random state": _random_state,
    "scalars": _scalars,
    "gradients": _gradients,
    "heads": _heads,
    "images": _images,
    "lambda 0": _lambda_zero,
    "autocast": _autocast,
    "one position": _one_position,
    "compile": _compile,
}
