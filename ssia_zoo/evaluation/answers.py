"""Collect a model's answer to each image of a split; store and read the answers as parquet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from ssia_zoo.data import NOT_COUNTED
from ssia_zoo.data.encoded import encoded_images, selected_rows, split_digest
from ssia_zoo.errors import DataError, WeightError, one_line
from ssia_zoo.evaluation.metrics import share_buffers
from ssia_zoo.models.features import TimmModel, evaluating

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

FILE = "per_image.parquet"
_KEY = b"ssia_zoo"  # of the metadata of the file
_TOP = 5
_FLOATS = ["label_probability", "predicted_probability", "loss"]
_COMPACT: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 19,
    "use_dictionary": ["label", "predicted"],
    "column_encoding": {**{name: "BYTE_STREAM_SPLIT" for name in _FLOATS}, "row": "DELTA_BINARY_PACKED"},
    "write_statistics": False,
}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A classifier's answer to each readable image of a split, in the order of the split."""

    class_names: tuple[str, ...]
    """Classes of the data, in the order of its labels."""
    rows: Integers
    """Row of each image in the split."""
    images: tuple[str, ...]
    """Name of each image; "row 3" for an image without a name."""
    labels: Integers
    predicted: Integers
    label_probability: Floats
    predicted_probability: Floats
    loss: Floats
    """Cross-entropy."""
    in_top5: Flags
    """Whether the label is among the five most probable classes."""
    unreadable: int
    """Number of images that could not be decoded, which are left out."""
    digest: str
    """sha256 of the names, byte sizes and labels of the split's images."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> Flags:
        """Whether the most probable class is the label."""
        correct: Flags = self.predicted == self.labels
        return correct


def collect_answers(model: TimmModel, loader: Any, *, outputs: tuple[int, ...] | None = None) -> Answers:
    """Run a classifier in float32 on all images of a loader.

    Args:
        model: A timm classifier; it is moved to the accelerator's device, and its modes are restored afterwards.
        loader: A loader of `ssia_zoo.data.eval_loader`, not yet prepared by Accelerate.
        outputs: The model's output for each class of the data, from `match_model`; all outputs in order if None.

    Raises:
        DataError: If images have several labels, there is only one class, or too many images cannot be decoded.
        WeightError: If a logit is NaN or infinite.
    """
    samples = loader.dataset
    class_names = _class_names(samples.reader)
    accelerator = Accelerator()
    batches = accelerator.prepare(loader)
    model = model.to(accelerator.device)
    share_buffers(model, accelerator)
    order = None if outputs is None else torch.tensor(outputs, device=accelerator.device)
    parts = []
    with evaluating(model), torch.inference_mode():
        for images, labels in batches:
            answers = _answer(model(images).float(), labels, order)
            parts.append(accelerator.gather_for_metrics(answers).cpu())
    samples.unreadable.collect()
    return _assemble(torch.cat(parts), samples.reader, class_names)


def _answer(logits: Tensor, labels: Tensor, order: Tensor | None) -> Tensor:
    """Return one row per image, float64: label, prediction, loss, log-probability of the prediction, top-5, finite."""
    finite = logits.isfinite().all(dim=1)
    if order is not None:
        logits = logits[:, order].masked_fill(order < 0, -torch.inf)
    log_probabilities = logits.log_softmax(dim=1)
    loss = functional.nll_loss(log_probabilities, labels.clamp(min=0), reduction="none")
    best = logits.topk(min(_TOP, logits.shape[1]), dim=1).indices
    predicted = best[:, 0]
    columns = (
        labels,
        predicted,
        loss,
        log_probabilities.gather(1, predicted[:, None])[:, 0],
        (best == labels[:, None]).any(dim=1),
        finite,
    )
    return torch.stack([column.double() for column in columns], dim=1)


def _assemble(table: Tensor, reader: Any, class_names: tuple[str, ...]) -> Answers:
    columns = table.numpy()
    rows, encoded = reader.rows, encoded_images(reader.rows, reader.image_column)
    kept = np.flatnonzero(columns[:, 0] != NOT_COUNTED)
    if not len(kept):
        raise DataError(f"none of the {len(columns)} images can be read; repair them or choose other data")
    numbers = np.asarray(selected_rows(rows), dtype=np.int64)
    names = [name or f"row {row}" for name, row in zip(encoded.portable_names(), numbers, strict=True)]
    labels, predicted, loss, log_probability, in_top5, finite = columns[kept].T
    if bad := int((finite == 0).sum()):
        first = names[kept[np.argmin(finite)]]
        raise WeightError(
            f"the model's logits are NaN or infinite for {bad} of {len(kept)} images, such as {first}; its weights are "
            "damaged, or training diverged: use other weights"
        )
    return Answers(
        class_names=class_names,
        rows=numbers[kept],
        images=tuple(names[place] for place in kept),
        labels=labels.astype(np.int64),
        predicted=predicted.astype(np.int64),
        label_probability=np.exp(-loss).astype(np.float32),
        predicted_probability=np.exp(log_probability).astype(np.float32),
        loss=loss.astype(np.float32),
        in_top5=in_top5.astype(bool),
        unreadable=len(columns) - len(kept),
        digest=split_digest(rows, reader.image_column, reader.label_column),
    )


def _class_names(reader: Any) -> tuple[str, ...]:
    feature = reader.rows.features[reader.label_column]
    if not isinstance(feature, datasets.ClassLabel):
        raise DataError(
            f"the column {reader.label_column!r} has the type {type(feature).__name__}; expected one class per image"
        )
    if len(feature.names) < 2:
        raise DataError(f"the data has only the class {feature.names[0]!r}; expected at least two")
    return tuple(feature.names)


# -- parquet


def write_answers(answers: Answers, path: Path, *, compact: bool = False) -> None:
    """Write the answers as parquet; classes are written by name, and their order is in the file's metadata.

    Args:
        answers: From `collect_answers`.
        path: The file.
        compact: Whether to compress the file as far as parquet can.
    """

    def named(indices: Integers) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), pa.array(answers.class_names))

    table = pa.table(
        {
            "row": answers.rows,
            "image": pa.array(answers.images, pa.string()),
            "label": named(answers.labels),
            "predicted": named(answers.predicted),
            "correct": answers.correct,
            "label_probability": answers.label_probability,
            "predicted_probability": answers.predicted_probability,
            "loss": answers.loss,
            "in_top5": answers.in_top5,
        }
    )
    about = {"class_names": answers.class_names, "unreadable": answers.unreadable, "digest": answers.digest}
    options = _COMPACT if compact else {}
    pq.write_table(table.replace_schema_metadata({_KEY: json.dumps(about)}), path, **options)


def read_answers(path: Path) -> Answers:
    """Read the file of `write_answers`.

    Args:
        path: The file, or the folder of a report.

    Raises:
        DataError: If it cannot be read, or is another file.
    """
    path = path / FILE if path.is_dir() else path
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[_KEY])
        index = {name: number for number, name in enumerate(about["class_names"])}

        def indices(column: str) -> Integers:
            return np.array([index[name] for name in table[column].to_pylist()], dtype=np.int64)

        return Answers(
            class_names=tuple(about["class_names"]),
            rows=table["row"].to_numpy(),
            images=tuple(table["image"].to_pylist()),
            labels=indices("label"),
            predicted=indices("predicted"),
            label_probability=table["label_probability"].to_numpy(),
            predicted_probability=table["predicted_probability"].to_numpy(),
            loss=table["loss"].to_numpy(),
            in_top5=table["in_top5"].to_numpy(),
            unreadable=about["unreadable"],
            digest=about["digest"],
        )
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        reason = f" ({one_line(error, 150)})" if isinstance(error, OSError | pa.ArrowException) else ""
        raise DataError(f"{path} is no {FILE} of a report{reason}; write one with ssia-zoo validate") from error
