"""The picture of a calibration: how often tokens are right, and how good translations are, at a given confidence."""

from collections.abc import Sequence
from typing import Any

from flax_s2s.evaluation.calibration import Group, Reliability


def draw(file: Any, form: str, curves: Sequence[Reliability], groups: Sequence[Group]) -> None:
    """Draws both.

    Args:
        file: open for bytes.
        form: png, pdf or svg.
        curves: before and after scaling.
        groups: of translations.
    """
    from matplotlib.figure import Figure  # not pyplot, which wants a display

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="gray", linestyle=":", label="perfect calibration")
    for curve, marker, color in zip(curves, "os", ("tab:orange", "tab:blue"), strict=True):
        bins = [one for one in curve.bins if one.tokens]
        label = f"T = {curve.temperature:.3f}: ECE {curve.ece:.4f}"
        left.plot([one.confidence for one in bins], [one.accuracy for one in bins], marker=marker, color=color, label=label)
        width = 1 / len(curve.bins)
        heights = [one.tokens / max(curve.tokens, 1) for one in curve.bins]
        left.bar([one.low + width / 2 for one in curve.bins], heights, width, color=color, alpha=0.25, linewidth=0)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the likeliest token", ylabel="accuracy (bars: share of the tokens)")
    left.set_title(f"{curves[0].tokens:,} reference tokens")
    left.legend(loc="upper left")
    for name, marker in zip(groups[0].quality if groups else (), "osv^", strict=False):
        right.plot([one.confidence for one in groups], [one.quality[name] for one in groups], marker=marker, label=name)
    right.set(ylim=(0, 100), xlabel="confidence of the translation (mean of its group)", ylabel="mean of the sentences' scores, percent")
    right.set_title(f"{sum(one.sentences for one in groups):,} translations in {len(groups)} groups")
    if groups:
        right.legend(loc="upper left")
    figure.savefig(file, format=form, dpi=120)
