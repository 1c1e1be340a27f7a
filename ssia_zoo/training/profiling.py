"""Write a trace of some optimizer steps by torch's profiler."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.profiler import profile, schedule

_WARM_UP = 3
"""Steps before the trace; the first ones choose kernels and allocate memory."""
_ROWS = 40

_log = logging.getLogger(__name__)


class StepProfiler:
    """Profiles some optimizer steps, then writes trace.json.gz (for Perfetto or chrome://tracing) and trace.txt.

    Args:
        folder: Folder of the run.
        steps: Number of optimizer steps in the trace.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps, self._seen, self._done = folder, steps, 0, False
        plan = schedule(wait=0, warmup=_WARM_UP, active=steps, repeat=1)
        self._profile = profile(schedule=plan, on_trace_ready=self._write)
        self._profile.start()

    def step(self) -> None:
        """Tell the profiler that an optimizer step has ended."""
        if not self._done:
            self._seen += 1
            self._profile.step()

    def close(self) -> None:
        """End profiling; a run that ends earlier leaves a shorter trace."""
        if self._done:
            return
        if self._seen < _WARM_UP:
            _log.warning("`profile`: no trace, as training ended after %d steps; it begins after 3", self._seen)
        self._profile.stop()

    def _write(self, result: profile) -> None:
        self._done = True
        path = self._folder / "trace.json.gz"
        result.export_chrome_trace(str(path))
        order = "self_device_time_total" if torch.accelerator.is_available() else "self_cpu_time_total"
        table = result.key_averages().table(sort_by=order, row_limit=_ROWS)
        path.with_name("trace.txt").write_text(table, encoding="utf-8")
        steps = min(self._steps, self._seen - _WARM_UP)
        _log.info("`profile`: a trace of %d steps is in %s (open it in ui.perfetto.dev)", steps, path)
