"""The kinds of drawn figures: what the page, Snakemake's report and the rules know of each, in the page's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Of the page and of Snakemake's report, a file a kind. Their digests are parameters of the rule that writes the page.
_CAPTIONS = Path(__file__).resolve().parents[4] / "report"


@dataclass(frozen=True)
class Kind:
    """A kind of figure; the function that draws it is called after it, as its rule is: ``plot_curves``.

    Attributes:
        title: Its heading in Snakemake's report.
        section: What its figures show, for those who do not see them.
        message: What is plotted, in the words of its rule.
        tables: The tables it is drawn of, by the function's parameters; of each a figure has the rows that are its own.
        axes: What tells its figures apart.
        interactive: Whether the page draws it with choices, too.
        pretraining: Whether it belongs to pre-training.
    """

    title: str
    section: str
    message: str
    tables: Mapping[str, str]
    axes: tuple[str, ...] = ("model",)
    interactive: bool = False
    pretraining: bool = False


KINDS = {
    "curves": Kind(
        "Curves", "Performance over sparsity", "the curves of {wildcards.model} on {wildcards.task}",
        {"evaluations": "evaluations", "knees": "knees", "bands": "curves"}, ("model", "task"), interactive=True,
    ),
    "layers": Kind(
        "Matrices", "Sparsity of every matrix at the knee",
        "the sparsity of the matrices of {wildcards.model} at its knees on {wildcards.task}",
        {"layers": "layers", "knees": "knees"}, ("model", "task"), interactive=True,
    ),
    "weights": Kind(
        "Weights", "Statistics of the weights", "the statistics of the weights of {wildcards.model}",
        {"weights": "weights"}, interactive=True, pretraining=True,
    ),
    "similarities": Kind(
        "Masks", "Similarity of masks", "the similarity of the masks of {wildcards.model}",
        {"similarities": "similarities"},
    ),
    "losses": Kind(
        "Pre-training", "Loss over pre-training", "the loss of the pre-training of {wildcards.model}",
        {"losses": "losses"}, pretraining=True,
    ),
    "emergence": Kind(
        "Emergence", "Emergence of sparsity", "how sparsity emerges in {wildcards.model}",
        {name: name for name in ("weights", "trajectories", "histograms", "changes")}, pretraining=True,
    ),
    "ages": Kind(
        "Ages", "Knees over pre-training", "the knees of {wildcards.model} on {wildcards.task} over its pre-training",
        {"evaluations": "evaluations", "knees": "knees"}, ("model", "task"), pretraining=True,
    ),
    "findings": Kind(
        "Findings", "Finding", "the finding {wildcards.finding}",
        {"findings": "findings", "curves": "curves", "knees": "knees"}, ("finding",),
    ),
}  # fmt: skip


def caption(kind: str) -> str:
    """Return how to read the figures of a kind, and what to conclude with care."""
    return " ".join((_CAPTIONS / f"{kind}.rst").read_text(encoding="utf-8").split())
