"""The table of findings, and the words of its verdicts."""

from __future__ import annotations

from dataclasses import replace

from essential_sparsity.tables import Schema, count, number, text

HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold", "undecided"

FINDINGS = Schema(
    "findings",
    {
        "finding": text(description="Name of the finding; it may have several rows."),
        "claim": text(description="What is claimed, as the study stated it."),
        "statistic": text(description="What is estimated."),
        "of": text(description="What it is taken of, as JSON."),
        "estimate": number(nullable=True, description="The statistic; infinite if unbounded, null if there is none."),
        "ci_low": number(nullable=True, description="Lower bound of its interval; null if there is none."),
        "ci_high": number(nullable=True, description="Upper bound; infinite if the interval is open."),
        "n_seeds": count(least=0, description="Pre-trainings of the smaller group, or seeds of the curves."),
        "verdict": text(
            among=(HOLDS, DOES_NOT_HOLD, UNDECIDED),
            description="Whether the whole interval lies where the claim holds, or outside; else `undecided`.",
        ),
        "holds_where": text(description="The values at which the claim holds, such as `above 2`."),
        "study": text(description="Name of the study."),
        "scale": text(among=("desk", "paper"), description="The study's scale."),
        "diverged": text(description="Dense models behind it at chance or without a finite value, seed by seed."),
        "flags": text(description="Why there is no estimate or interval, or what to doubt."),
    },
    unique=["finding", "statistic", "of"],
)

# The findings of several studies.
ALL_FINDINGS = replace(FINDINGS, unique=["study", *FINDINGS.unique])
