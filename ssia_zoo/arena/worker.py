"""Train one run of a plan in this process, and store its answers: `python -m ssia_zoo.arena.worker FOLDER`.

FOLDER contains settings.yaml. The run is trained in FOLDER/run, or resumed; FOLDER/outcome.json and
FOLDER/answers.parquet are written at the end.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssia_zoo.evaluation.answers import Answers, collect_answers, write_answers
from ssia_zoo.evaluation.validate import prepare_evaluation
from ssia_zoo.files import atomic_write
from ssia_zoo.models.loading import load_model
from ssia_zoo.training import parse_config, train
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.main import run_training
from ssia_zoo.training.metrics import read_records

SETTINGS, OUTCOME, ANSWERS, RUN = "settings.yaml", "outcome.json", "answers.parquet", "run"


def main(folder: Path) -> int:
    """Train, evaluate and describe a run; return the exit status of `ssia_zoo.training.main`."""
    return run_training(lambda: run_cell(folder))


def run_cell(folder: Path) -> None:
    """Train the run of a folder, or what is left of it, and write its outcome.

    Raises:
        SSIAZooError: As `train`.
        TrainingStopped: A signal stopped the run.
    """
    run = folder / RUN
    flags = ["--config", str(folder / SETTINGS), "--output-dir", str(run), "--resume", "auto"]
    config = parse_config(flags, prog="ssia-zoo arena run")
    train(config)
    described = json.loads((run / "config.json").read_text(encoding="utf-8"))["ssia"]
    last = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "train"][-1]
    outcome = {
        "images": described["evaluated_images"],
        **{name: round(value, 4) for name, value in described["metrics"].items()},
        "train_task_loss": round(last["task_loss"], 4),  # of a tenth of an epoch, augmented
        "steps": last["step"],
        "gradient_mb": last["gradient_mb"],
        "fingerprint": described.get("fingerprint", {}),
        **_peak_memory(),
        "environment": described["environment"],
    }
    kept = _keep_answers(run, config, folder / ANSWERS)
    with atomic_write(folder / OUTCOME) as temporary:
        temporary.write_text(json.dumps({**outcome, **kept}), encoding="utf-8")


def _peak_memory() -> dict[str, Any]:
    """Return the most memory that training took, in MB: of the GPU, or of the process."""
    if torch.cuda.is_available():
        return {"gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)}


def _keep_answers(run: Path, config: TrainConfig, path: Path) -> dict[str, Any]:
    """Store the saved weights' answer to each evaluation image."""
    data = replace(config, resume=None)
    evaluation = prepare_evaluation(load_model(f"local-dir:{run}"), data)
    answers = collect_answers(evaluation.model, evaluation.loader, outputs=evaluation.outputs)
    with atomic_write(path) as temporary:
        write_answers(_rounded(answers), temporary, compact=True)
    return {"answers_top1": round(100 * float(answers.correct.mean()), 4)}


def _rounded(answers: Answers) -> Answers:
    """Round probabilities and losses to half precision, which takes half the space in a compressed file."""
    names = ("label_probability", "predicted_probability", "loss")
    half = {name: getattr(answers, name).astype(np.float16).astype(np.float32) for name in names}
    return replace(answers, **half)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
