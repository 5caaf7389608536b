"""search.png: validation AUC of rows, or against each searched flag."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from utils.report.pages import FAKE_COLOR, INK, REAL_COLOR, SOFT, STYLE, drawn_name, new_figure, save_plot
from utils.search.definition import Definition, as_words
from utils.search.results import Outcome, Point

WIDTH = 4.4  # inches, as the plots of other pages
MAX_PANELS = 12


@rc_context(STYLE)
def plot_rows(path: Path, points: Sequence[Point], datasets: Sequence[str]) -> Markup:
    """A line for each point with a dot per seed and a bar at their mean: validation, and the first test."""
    kinds: list[tuple[str | None, str, str]] = [(None, "validation", REAL_COLOR)]
    test = f"test of {datasets[0]}" if len(datasets) > 1 else "test"
    kinds += [(datasets[0], test, FAKE_COLOR)] if datasets else []
    figure, (axes,) = new_figure(WIDTH, 0.9 + 0.52 * len(points))
    values = [value for point in points for kind, *_ in kinds for value in point.values(kind)]
    left = min([0.97, *values]) - 0.02
    for place, point in enumerate(points):
        axes.text(left, place - 0.32, drawn_name(point.name), fontsize=8, va="center")
        for (kind, _, color), shift in zip(kinds, (-0.02, 0.18), strict=False):
            if values := point.values(kind):
                height = place + shift
                axes.plot([min(values), max(values)], [height] * 2, color=color, lw=1)
                axes.plot(values, [height] * len(values), "o", color=color, ms=4, alpha=0.55, mew=0)
                axes.plot(np.mean(values), height, "|", color=color, ms=9, mew=2)
    for _, label, color in kinds:
        axes.plot([], [], "o-", color=color, ms=4, lw=1, label=label)
    axes.set(xlabel="AUC: a dot per seed, a bar at their mean", title="Rows", xlim=(left, 1.0))
    axes.set(ylim=(len(points) - 0.4, -0.7), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", lw=0.6)
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.4)
    return save_plot(figure, path, "AUC of each row and seed on the validation and the test split")


@rc_context(STYLE)
def plot_space(path: Path, outcomes: Sequence[Outcome], best: Point | None, definition: Definition) -> Markup:
    """Validation AUC of all trials against the value of each searched flag."""
    names = definition.searched[:MAX_PANELS]
    figure, panels = new_figure(WIDTH, 0.4 + 2.0 * len(names), rows=len(names))
    known = [outcome for outcome in outcomes if outcome.result]
    for axes, name in zip(panels, names, strict=True):
        values = [" ".join(outcome.trial.changes[name] or ()) for outcome in known]
        places = _axis(axes, name, values, definition)
        for outcome, place in zip(known, places, strict=True):
            is_best = best is not None and outcome.trial.point == best.name
            is_pruned = outcome.state == "pruned"
            color = FAKE_COLOR if is_best else SOFT if is_pruned else REAL_COLOR
            marker = "x" if is_pruned else "o"
            size = 7 if is_best else 5
            axes.plot(place, outcome.result["val_auc"], marker, color=color, ms=size, alpha=0.8)
        axes.set(xlabel=name, ylabel="validation AUC")
        axes.grid(lw=0.6)
    for label, style, color in (("best", "o", FAKE_COLOR), ("trial", "o", REAL_COLOR), ("pruned", "x", SOFT)):
        panels[0].plot([], [], style, color=color, label=label)
    panels[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)
    panels[0].set_title("Trials")
    return save_plot(figure, path, f"validation AUC against {', '.join(names)}")


def _axis(axes: Axes, name: str, values: Sequence[str], definition: Definition) -> list[float]:
    """Set up the axis of a searched flag; where the values lie on it."""
    choices = definition.space[name]
    if not isinstance(choices, list):
        if getattr(choices, "log", False):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")  # powers would be formulas, which are off
            axes.xaxis.set_minor_formatter(NullFormatter())
        return [float(value) for value in values]
    labels = [" ".join(as_words(choice)) for choice in choices]
    axes.set_xticks(range(len(labels)), [drawn_name(label) for label in labels], fontsize=8)
    axes.tick_params(axis="x", colors=INK)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    return [float(labels.index(value)) for value in values]
