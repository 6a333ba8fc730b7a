"""From claims to verdicts: the registry of statistics, and the table of findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from essential_sparsity.files import canonical
from essential_sparsity.findings.claims import Claim, Region, parts_of
from essential_sparsity.findings.estimates import Estimate
from essential_sparsity.findings.evidence import Evidence, MissingEvidenceError
from essential_sparsity.findings.knees import knee, knee_difference, slope_ratio
from essential_sparsity.findings.ranks import rank_correlation
from essential_sparsity.findings.stored import abrupt_change, mask_similarity, weight_statistic_difference
from essential_sparsity.findings.tables import DOES_NOT_HOLD, FINDINGS, HOLDS, UNDECIDED
from essential_sparsity.findings.values import value_difference
from essential_sparsity.findings.variance import variance_share
from essential_sparsity.metrics.registry import DENSE_AT_CHANCE
from essential_sparsity.records import plain
from essential_sparsity.tables import Row

# From what a claim is about and the evidence of its study, the estimate. Each is a pure function.
Statistic = Callable[[Any, Evidence], Estimate]

STATISTICS: dict[str, Statistic] = {
    "knee": knee,
    "slope-ratio": slope_ratio,
    "value-difference": value_difference,
    "knee-difference": knee_difference,
    "mask-similarity": mask_similarity,
    "abrupt-change": abrupt_change,
    "weight-statistic-difference": weight_statistic_difference,
    "rank-correlation": rank_correlation,
    "variance-share": variance_share,
}


def verdict(low: float | None, high: float | None, holds: Region) -> str:
    """Say whether a claim holds: its whole interval lies in the region, or outside it, or it is undecided.

    Args:
        low: The interval's lower bound, perhaps minus infinity; None or NaN where there is no interval.
        high: The upper bound.
        holds: Bounds of ``within`` are in the region, those of the others are not.
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return UNDECIDED
    if holds.within is not None:
        least, most = holds.within
        inside, outside = least <= low and high <= most, high < least or most < low
    elif holds.above is not None:
        inside, outside = holds.above < low, high <= holds.above
    else:
        assert holds.below is not None
        inside, outside = high < holds.below, holds.below <= low
    return HOLDS if inside else DOES_NOT_HOLD if outside else UNDECIDED


def region_text(holds: Region) -> str:
    """Write where a claim holds: ``above 2``, ``from -0.01 to 0.01``."""
    if holds.within is not None:
        return "from {:g} to {:g}".format(*holds.within)
    return " ".join(f"{side} {value:g}" for side, value in plain(holds).items())


def judge(claims: Iterable[Claim], evidence: Evidence, study: str, scale: str) -> pd.DataFrame:
    """Return the table of findings.

    Args:
        claims: As :func:`study.claims.checked_claims` returns them.
        evidence: The study's curves and tables.
        study: The study's name.
        scale: ``desk`` or ``paper``.
    """
    rows = [{**_row(claim, evidence), "study": study, "scale": scale} for claim in claims]
    return pd.DataFrame(rows, columns=list(FINDINGS.columns))


def _row(claim: Claim, evidence: Evidence) -> Row:
    try:
        found = STATISTICS[claim.statistic](claim.of, evidence)
    except MissingEvidenceError as error:
        found = Estimate(n_seeds=0, flags=(str(error),))
    decided = UNDECIDED if found.value is None else verdict(found.low, found.high, claim.holds)
    return {
        "finding": claim.finding, "claim": claim.claim, "statistic": claim.statistic,
        "of": canonical(plain(claim.of)), "estimate": _number(found.value), "ci_low": _number(found.low),
        "ci_high": _number(found.high), "n_seeds": found.n_seeds, "verdict": decided,
        "holds_where": region_text(claim.holds), "diverged": diverged(claim, evidence.evaluations),
        "flags": "; ".join(dict.fromkeys(found.flags)),
    }  # fmt: skip


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def diverged(claim: Claim, evaluations: pd.DataFrame) -> str:
    """Name the dense models behind a claim that are at chance, or whose value is not finite, seed by seed.

    Args:
        claim: The claim; one that names no curve is about its models' dense models on all tasks.
        evaluations: The table of evaluations.
    """
    dense = evaluations[evaluations["method"] == "dense"]
    parts = parts_of(claim.of)
    groups = [*parts, claim.of, *(getattr(claim.of, side, None) for side in ("one", "other"))]
    models = {name for group in groups for name in getattr(group, "models", None) or ()}
    tasks = {part.task for part in parts}
    value = dense["value"].astype(float)
    bad = dense["flags"].str.contains(DENSE_AT_CHANCE, regex=False) | ~value.map(math.isfinite)
    rows = dense[bad & (dense["model"].isin(models) | (not models)) & (dense["task"].isin(tasks) | (not tasks))]
    return "; ".join(f"{row.model}/{row.checkpoint} on {row.task}, seed {row.seed}" for row in rows.itertuples())
