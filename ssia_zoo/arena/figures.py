"""Plot the paired differences of a plan with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssia_zoo.arena.records import Record
from ssia_zoo.arena.results import groups
from ssia_zoo.arena.tables import CONTROL, paired
from ssia_zoo.figures import new_figure


def draw(runs: Sequence[Record], path: Path, control: str = CONTROL) -> bool:
    """Plot paired differences over seeds, one panel for each data set and network.

    Returns:
        Whether there is a picture: False if no method can be compared with the control.
    """
    cells = groups(runs)
    compared = {
        key: {method: found for method in group if method != control and (found := paired(group, method, control))}
        for key, group in cells.items()
    }
    compared = {key: methods for key, methods in compared.items() if methods}
    if not compared:
        return False
    rows = (len(compared) + 1) // 2
    figure = new_figure(9, 0.4 + rows * (0.6 + 0.28 * max(map(len, compared.values()))))
    axes = figure.subplots(rows, 2, squeeze=False, sharex=True).flatten()
    for panel, ((data, arch), methods) in zip(axes, compared.items(), strict=False):
        for place, comparison in enumerate(reversed(methods.values())):
            low, high = comparison.interval or (comparison.difference,) * 2
            panel.plot([low, high], [place, place], color="tab:blue")
            panel.plot(comparison.difference, place, "o", color="tab:blue")
        panel.axvline(0, color="gray", linewidth=0.8)
        panel.set_yticks(range(len(methods)), list(reversed(methods)), fontsize=8)
        panel.set_title(f"{arch}, {data}", fontsize=9)
    for panel in axes[len(compared) :]:
        panel.set_axis_off()
    figure.supxlabel(f"top-1 minus {control}'s, points; paired by seed, 95 % interval", fontsize=9)
    figure.savefig(path, dpi=110)
    return True
