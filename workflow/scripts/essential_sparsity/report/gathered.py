"""The findings of several studies in one table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from essential_sparsity.errors import UserError, first_line
from essential_sparsity.findings.tables import ALL_FINDINGS, FINDINGS
from essential_sparsity.report.words.numbers import records
from essential_sparsity.report.words.verdicts import estimate_text, statistic_text, subject_text, verdicts_sentence
from essential_sparsity.tables import stack


def gather_findings(paths: Iterable[Path]) -> pd.DataFrame:
    """Return the rows of several tables of findings, ordered by finding, scale and study.

    Raises:
        UserError: A file is no table of findings, or two are of one study.
    """
    frames = []
    for path in paths:
        try:
            frames.append(FINDINGS.typed(pd.read_parquet(path)))
        except (OSError, ValueError) as error:
            raise UserError(
                str(path),
                first_line(error),
                "a table of findings",
                "name files results/studies/*/tables/findings.parquet",
            ) from error
    found = stack(frames, FINDINGS).sort_values(["finding", "scale", "study"], kind="stable", ignore_index=True)
    twice = found[found.duplicated(list(ALL_FINDINGS.unique))]
    if len(twice):
        study = twice["study"].iloc[0]
        raise UserError("the tables", f"two of the study '{study}'", "each study once", "leave one of them out")
    return found


def findings_markdown(findings: pd.DataFrame) -> str:
    """Return findings as a Markdown table, below a sentence that counts the verdicts."""
    lines = [
        verdicts_sentence(findings), "", "| Finding | Study (scale) | Statistic | Estimate | Holds | Verdict |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in records(findings):
        subject = subject_text(row["of"], {}, {})
        cells = (
            row["finding"], f"{row['study']} ({row['scale']})", f"{statistic_text(row['statistic'])}: {subject}",
            estimate_text(row), row["holds_where"], row["verdict"],
        )  # fmt: skip
        lines.append(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)
