"""Plots of an evaluation. Each function writes a PNG file and returns the plot as SVG for report.html."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.ticker import MaxNLocator
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import det_curve, roc_curve

from utils.evaluation.metrics import Floats, Labels, area_under_roc
from utils.names import one_line
from utils.report.pages import FAKE_COLOR, INK, REAL_COLOR, SOFT, STYLE, drawn_name, new_figure, save_plot

WIDTH = 4.4  # inches; the width of a phone, so that letters stay readable there
# readable in both modes
GROUP_COLORS = ("#7b5ea7", "#2e8b74", "#b8860b", "#c2588a", "#5b7fd1", "#8a6d4f", "#6b8e23")
NUM_BINS = 15  # of P(fake), in the reliability plot
DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)

Groups = Mapping[str, tuple[Labels, Floats]]  # name -> (labels, logits), both classes in each


class Bar(NamedTuple):
    """One row of a bar chart."""

    name: str
    value: float
    interval: tuple[float, float] | None
    num_clips: int


def _drawn_groups(groups: Groups) -> tuple[dict[str, tuple[str, float]], int]:
    """({name: (colour, line width)}, number of groups left out) for "all" and the hardest other groups."""
    others = [name for name in groups if name != "all"]
    hardest = sorted(others, key=lambda name: area_under_roc(*groups[name]))[: len(GROUP_COLORS)]
    shown = [name for name in others if name in hardest]
    styles = {"all": (INK, 2.0)} if "all" in groups else {}
    styles |= {name: (color, 1.3) for name, color in zip(shown, GROUP_COLORS, strict=False)}
    return styles, len(others) - len(shown)


def _legend(axes: Axes, left_out: int, location: Literal["lower right", "upper right"]) -> None:
    title = f"and {left_out} easier ones, not drawn" if left_out else ""
    axes.legend(loc=location, title=title, title_fontsize=8, handlelength=1.4)


def _said(names: Iterable[str]) -> str:
    """Names for a screen reader."""
    return ", ".join(one_line(name, 80) for name in names)


@rc_context(STYLE)
def plot_roc(path: Path, groups: Groups) -> Markup:
    """ROC curves of {name: (labels, scores)}, each with both classes; if there are many, of the hardest."""
    figure, (axes,) = new_figure(WIDTH, 4.2)
    styles, left_out = _drawn_groups(groups)
    axes.plot([0, 1], [0, 1], color=SOFT, lw=1, ls="--")
    for name, (color, width) in styles.items():
        labels, scores = groups[name]
        false_positive, true_positive, _ = roc_curve(labels, scores)
        label = f"{drawn_name(name)}  {area_under_roc(labels, scores):.3f}"
        axes.plot(false_positive, true_positive, color=color, lw=width, label=label)
    axes.set(xlabel="reals called fake", ylabel="fakes found", title="ROC (AUC)")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01))
    axes.set_aspect("equal")
    _legend(axes, left_out, "lower right")
    return save_plot(figure, path, f"ROC curves of {_said(styles)}")


@rc_context(STYLE)
def plot_det(path: Path, groups: Groups) -> Markup:
    """Detection error trade-off curves on normal-deviate axes, where normal scores give a straight line."""
    figure, (axes,) = new_figure(WIDTH, 4.2)
    styles, left_out = _drawn_groups(groups)
    low = norm.ppf(DET_TICKS[0])
    axes.plot([low, 0], [low, 0], color=SOFT, lw=1, ls="--")  # where both errors are equal
    for name, (color, width) in styles.items():
        false_positive, false_negative, _ = det_curve(*groups[name])
        # an error rate of 0 is minus infinity on this axis: the curve ends at the frame
        places = [np.maximum(norm.ppf(rate), low) for rate in (false_positive, false_negative)]
        axes.plot(*places, color=color, lw=width, label=drawn_name(name), drawstyle="steps-post")
    names = [f"{tick:.1%}".replace(".0%", "%") for tick in DET_TICKS]
    axes.set(xlabel="reals called fake", ylabel="fakes missed", title="Detection error trade-off")
    axes.set(xlim=(low, norm.ppf(0.97)), ylim=(low, norm.ppf(0.97)))
    axes.set_xticks(norm.ppf(DET_TICKS), names)
    axes.set_yticks(norm.ppf(DET_TICKS), names)
    axes.grid(lw=0.6)
    axes.set_aspect("equal")
    _legend(axes, left_out, "upper right")
    return save_plot(figure, path, f"DET curves of {_said(styles)}")


@rc_context(STYLE)
def plot_score_histogram(path: Path, labels: Labels, probs: Floats, name: str, threshold: float) -> Markup:
    """Histograms of P(fake) for reals and fakes, each normalised to its class size, and a threshold."""
    figure, (axes,) = new_figure(WIDTH, 3.1)
    bins = np.linspace(0, 1, 31).tolist()
    for value, word, color in ((0, "real", REAL_COLOR), (1, "fake", FAKE_COLOR)):
        chosen = probs[labels == value]
        weights = np.full(len(chosen), 1 / max(len(chosen), 1))
        label = f"{word} ({len(chosen)} clips)"
        axes.hist(chosen, bins, weights=weights, color=color, alpha=0.55, label=label)
    axes.axvline(threshold, color=INK, lw=1, ls="--", label=f"{name} ({threshold:.3f})")
    axes.set(xlabel="P(fake)", ylabel="share of the class", title="Scores", xlim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3, handlelength=1.4)
    return save_plot(figure, path, "histograms of P(fake) over real and over fake clips")


@rc_context(STYLE)
def plot_bars(path: Path, sections: Mapping[str, Sequence[Bar]]) -> Markup:
    """AUC bars with intervals, one section below the other; bars start at 0.5, which is chance."""
    num_rows = sum(len(bars) + 1 for bars in sections.values())
    figure, (axes,) = new_figure(WIDTH, 0.9 + 0.36 * num_rows)
    lows = [bar.interval[0] if bar.interval else bar.value for bars in sections.values() for bar in bars]
    left = max(0.0, min(0.45, *lows, 1.0) - 0.03)
    place = 0.0
    for name, bars in sections.items():
        axes.text(left, place + 0.1, name, fontweight="bold", va="center")
        for bar in bars:
            place += 1
            shown = f"{drawn_name(bar.name)} ({bar.num_clips})"
            axes.text(left, place - 0.2, shown, fontsize=8, va="center")
            axes.barh(place + 0.18, bar.value - 0.5, 0.26, left=0.5, color=FAKE_COLOR, alpha=0.55, lw=0)
            bounds = "  ({:.2f} to {:.2f})".format(*bar.interval) if bar.interval else ""
            axes.text(1, place - 0.2, f"{bar.value:.3f}{bounds}", fontsize=8, va="center", ha="right")
            axes.plot([0.5, 0.5], [place + 0.02, place + 0.34], color=SOFT, lw=1)
            if bar.interval:
                axes.plot(bar.interval, [place + 0.18] * 2, color=INK, lw=1.2)
                axes.plot(bar.interval, [place + 0.18] * 2, "|", color=INK, ms=5)
        place += 1.3
    axes.set(xlabel="AUC against all reals", title="AUC of each kind of fake")
    axes.set(xlim=(left, 1.0), ylim=(place - 0.7, -0.6))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return save_plot(figure, path, "AUC with interval of each category and method")


@rc_context(STYLE)
def plot_confusion(path: Path, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """Clips of each class (rows) by what they are called (columns), shaded by their share of the row."""
    table = np.array(counts, np.float64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = new_figure(WIDTH, 4.2)
    axes.imshow(shares, cmap=ListedColormap([*map(_shade, range(101))]), vmin=0, vmax=1)
    for row, column in np.ndindex(*table.shape):
        if table[row, column]:
            axes.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(names)), map(drawn_name, names), rotation=45, ha="right")
    axes.set_yticks(range(len(names)), map(drawn_name, names))
    axes.set(xlabel="called", ylabel="true", title="Clips by what they are called")
    return save_plot(figure, path, f"confusion matrix of {_said(names)}")


def _shade(percent: int) -> tuple[float, ...]:
    """REAL_COLOR, so transparent that figures stay readable on it."""
    return (*to_rgb(REAL_COLOR), 0.6 * percent / 100)


@rc_context(STYLE)
def plot_reliability(path: Path, labels: Labels, probs: Mapping[str, Floats]) -> Markup:
    """Share of fakes against P(fake) in bins of equal width, and the number of clips per bin.

    probs: {name: (n,) probabilities}, e.g. with and without temperature; clips per bin are those of the last.
    """
    figure, (axes, below) = new_figure(WIDTH, 4.2, rows=2, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=SOFT, lw=1, ls="--", label="calibrated")
    for (name, values), color in zip(probs.items(), (FAKE_COLOR, REAL_COLOR), strict=False):
        fake_share, mean_prob = calibration_curve(labels == 1, values, n_bins=NUM_BINS)
        axes.plot(mean_prob, fake_share, "o-", color=color, ms=4, lw=1.2, label=name)
    axes.set(ylabel="share of fakes", title="Reliability", xlim=(0, 1), ylim=(-0.03, 1.03))
    axes.tick_params(labelbottom=False)
    axes.grid(lw=0.6)
    axes.legend(loc="upper left")
    below.hist(values, np.linspace(0, 1, NUM_BINS + 1).tolist(), color=SOFT, rwidth=0.9)
    below.set(xlabel="P(fake)", ylabel="clips", xlim=(0, 1))
    return save_plot(figure, path, "share of fakes against P(fake), and clips per bin")


@rc_context(STYLE)
def plot_training(path: Path, columns: Mapping[str, Floats], best_epoch: int | None) -> Markup:
    """Loss and validation metrics by epoch, from the columns of a run's metrics.csv."""
    losses = {"train_total": ("training", REAL_COLOR), "val_loss": ("validation", FAKE_COLOR)}
    metrics = {
        "val_auc": ("AUC", INK),
        "val_balanced_accuracy": ("balanced accuracy", GROUP_COLORS[1]),
        "val_eer": ("EER", GROUP_COLORS[2]),
        "val_accuracy": ("accuracy", GROUP_COLORS[1]),
    }
    figure, panels = new_figure(WIDTH, 4.2, rows=2)
    for axes, wanted in zip(panels, (losses, metrics), strict=True):
        marker = "o" if len(columns["epoch"]) == 1 else ""
        for name, (label, color) in wanted.items():
            if name in columns:
                axes.plot(columns["epoch"], columns[name], color=color, lw=1.3, marker=marker, label=label)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=SOFT, lw=1, ls="--", label="kept")
        axes.grid(lw=0.6)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2)
    panels[0].sharex(panels[1])
    panels[0].set(ylabel="loss", title="Training")
    panels[1].set(ylabel="on validation", xlabel="epoch", ylim=(0, 1.02))
    panels[0].tick_params(labelbottom=False)
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(columns["epoch"]) == 1:
        panels[1].set_xlim(columns["epoch"][0] - 0.5, columns["epoch"][0] + 0.5)
    return save_plot(figure, path, "losses and validation metrics by epoch")
