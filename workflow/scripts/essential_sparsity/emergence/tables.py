"""The tables of weights: their statistics, over training and by magnitude, and where they change."""

from __future__ import annotations

from essential_sparsity.tables import CHECKPOINT, Schema, count, fraction, number, text

_STATISTICS = {
    "n": count(description="Number of weights."),
    "mean": number(description="Mean weight."),
    "std": number(description="Standard deviation."),
    "mean_magnitude": number(description="Mean of |w|."),
    "fraction_zero": fraction(description="Share of weights that are exactly zero."),
    "fraction_below_0.001": fraction(description="Share of weights with |w| < 0.001."),
    "fraction_below_0.01": fraction(description="Share of weights with |w| < 0.01."),
    "fraction_below_0.1_std": fraction(description="Share with |w| below a tenth of their own matrix's std."),
    "kurtosis": number(description="Excess kurtosis; 0 for a normal distribution."),
    "hoyer": fraction(description="Hoyer sparsity: 0 for equal magnitudes, 1 for one weight."),
    "fraction_below_0.0001": fraction(description="Share of weights with |w| < 0.0001."),
    "fraction_below_0.1": fraction(description="Share of weights with |w| < 0.1."),
    "fraction_below_0.01_median": fraction(
        description="Share with |w| below a hundredth of the median |w| of their own matrix."
    ),
    "fraction_below_0.1_median": fraction(
        description="Share with |w| below a tenth of the median |w| of their own matrix."
    ),
}

WEIGHTS = Schema(
    "weights",
    {
        **CHECKPOINT,
        "step": count(nullable=True, description="Step of pre-training; null for `final`."),
        "position": count(description="Place of the matrix among the prunable ones, from 0."),
        "name": text(description="Name of the tensor in the checkpoint."),
        **_STATISTICS,
        "effective_rank": number(
            nullable=True, least=0.0,
            description="exp of the entropy of the normalised singular values; null if it was not computed.",
        ),
        "stable_rank": number(
            nullable=True, least=0.0,
            description="Sum of the squared singular values by the largest; null if it was not computed.",
        ),
    },
    unique=["model", "checkpoint", "name"],
)  # fmt: skip

TRAJECTORIES = Schema(
    "trajectories",
    {
        **CHECKPOINT,
        "step": count(nullable=True, description="Step of pre-training; null for `final`."),
        **_STATISTICS,
    },
    unique=["model", "checkpoint"],
)

HISTOGRAMS = Schema(
    "histograms",
    {
        **CHECKPOINT,
        "step": count(nullable=True, description="Step of pre-training; null for `final`."),
        "low": number(least=0.0, description="Lower edge of the bin of |w|, which belongs to it."),
        "high": number(least=0.0, description="Upper edge, which does not; 0 for the row of zeros."),
        "n": count(least=0, description="Number of prunable weights in the bin."),
    },
    unique=["model", "checkpoint", "low", "high"],
)

# What the table of changes calls all prunable weights together.
ALL_WEIGHTS = "all"

CHANGES = Schema(
    "changes",
    {
        "model": text(description="Name in the registry of models."),
        "name": text(description="Name of the tensor in the checkpoint; `all` for all prunable weights together."),
        "statistic": text(description="The statistic: a column of `weights`, and of `trajectories` for `all`."),
        "change_step": count(
            nullable=True, description="First step after the largest jump; null if none was looked for."
        ),
        "jump": number(nullable=True, description="The jump, beside the smooth drift; signed."),
        "jump_share": number(nullable=True, description="The jump by the range of the trajectory; signed."),
        "ci_low": number(nullable=True, description="Lower bound of the interval of `jump_share`, at that step."),
        "ci_high": number(nullable=True, description="Upper bound of the interval of `jump_share`, at that step."),
        "p_value": fraction(nullable=True, description="Of no jump: smooth drift with autocorrelated noise alone."),
        "p_adjusted": fraction(
            nullable=True, description="Holm's, over the matrices and statistics of a model; those of `all` apart."
        ),
        "flags": text(description="Why there is no change point, or what to doubt; empty if nothing."),
    },
    unique=["model", "name", "statistic"],
)

# What is measured of weights: a row a matrix, one for all together, and their histogram.
MEASURED = {"matrices": WEIGHTS, "pooled": TRAJECTORIES, "histograms": HISTOGRAMS}
