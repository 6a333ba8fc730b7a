"""The figure of a pre-training's loss curve."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from essential_sparsity.report.figures.style import Look, palette, scale_steps, set_title

# What the loss of each objective is, with its unit.
LOSS_LABELS = {
    "masked-language-modelling": "Cross-entropy of masked tokens (nats)",
    "causal-language-modelling": "Cross-entropy of the next token (nats)",
    "supervised-images": "Cross-entropy of classes (nats)",
    "masked-image-modelling": "L1 error of masked pixels (normalised)",
}
_TRAINING, _HELD_OUT = palette(2)
_WIDTH_IN = 6.5


def plot_losses(losses: pd.DataFrame, model: str, objective: str) -> Figure:
    """Draw the loss over the steps of pre-training, and the held-out accuracy below it where there is one.

    Checkpoints are marked by their held-out loss; a corpus without a split ``test`` has none.

    Args:
        losses: Rows of the table of losses, of one model.
        model: What the model is called.
        objective: What it was trained on, a key of :data:`LOSS_LABELS`.
    """
    rows = losses.sort_values("step").astype({"step": float})
    shown = ["held_out_loss", *(["held_out_accuracy"] if rows["held_out_accuracy"].notna().any() else [])]
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + 2.9 * len(shown)), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(shown), 1, squeeze=False).ravel())
    training = rows.dropna(subset=["loss"])
    panels[0].plot(training["step"], training["loss"], color=_TRAINING, label="training")
    for panel, column in zip(panels, shown, strict=True):
        held_out = rows.dropna(subset=[column])
        look: Look = {
            "color": _HELD_OUT,
            "linestyle": "--",
            "marker": "D",
            "markersize": 4.5,
            "markeredgewidth": 0,
        }
        if len(held_out):
            panel.plot(held_out["step"], held_out[column], label="held out, at the checkpoints", **look)
        scale_steps(panel, sorted(rows["step"]))
        panel.set_xlabel("Step of pre-training (symlog axis)")
        panel.yaxis.set_major_locator(MaxNLocator(6))
    panels[0].set_ylabel(LOSS_LABELS[objective])
    panels[0].legend(frameon=False)
    if len(panels) > 1:
        panels[1].set_ylabel("Held-out accuracy (%)")
        panels[1].yaxis.set_major_formatter(PercentFormatter(1.0, symbol="", decimals=0))
    set_title(figure, f"Loss over pre-training: {model}", _WIDTH_IN)
    return figure
