"""Train as train_hf.py does, and write each process's images, as lines of epoch and indices, to a folder."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssia_zoo.training import loop
from ssia_zoo.training.main import main
from ssia_zoo.training.run import Run, prepare_run


def watched_main(seen: Path, stop: int, arguments: Sequence[str]) -> int:
    """Train; stop by SIGTERM after this many optimizer steps, if not 0."""

    def watched(*parts: Any) -> Run:
        run = prepare_run(*parts)
        on_device: Any = run.on_device
        seen.mkdir(exist_ok=True)
        file = seen / uuid.uuid4().hex

        def on_device_watched(batch: Any) -> Any:
            images, labels, indices = on_device(batch)
            with file.open("a") as lines:
                lines.write(json.dumps([run.state.epoch, indices.tolist()]) + "\n")
            if run.state.step == stop - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return images, labels, indices

        run.on_device = on_device_watched  # type: ignore[assignment]
        return run

    loop.prepare_run = watched
    return main(arguments)
