"""The tables that every study writes, by name, and their columns as docs/tables.md lists them."""

from __future__ import annotations

from essential_sparsity.emergence.tables import CHANGES, HISTOGRAMS, TRAJECTORIES, WEIGHTS
from essential_sparsity.evaluation.tables import EVALUATIONS, EXAMPLES
from essential_sparsity.findings.tables import FINDINGS
from essential_sparsity.knees.tables import CURVES, DIFFERENCES, KNEES, LEVELS
from essential_sparsity.planning.costs import COSTS
from essential_sparsity.pretraining.losses import LOSSES
from essential_sparsity.pruning.tables import LAYERS, SIMILARITIES
from essential_sparsity.tables import Schema

SCHEMAS = {
    s.name: s
    for s in (EVALUATIONS, KNEES, CURVES, DIFFERENCES, LAYERS, WEIGHTS, TRAJECTORIES, HISTOGRAMS, CHANGES, COSTS)
}


def listed(schema: Schema) -> str:
    """Return the columns of a table as docs/tables.md lists them."""
    rows = [f"- `{name}`: {column.description}" for name, column in schema.columns.items()]
    return "\n".join([f"### {schema.name}", "", *rows, ""])


def columns_text() -> str:
    """Return the section of docs/tables.md on the columns of all tables."""
    return "\n".join(listed(s) for s in (*SCHEMAS.values(), EXAMPLES, LEVELS, SIMILARITIES, LOSSES, FINDINGS))
