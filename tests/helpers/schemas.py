"""The tables that every study writes, by name."""

from __future__ import annotations

from essential_sparsity.emergence.tables import CHANGES, HISTOGRAMS, TRAJECTORIES, WEIGHTS
from essential_sparsity.evaluation.tables import EVALUATIONS
from essential_sparsity.knees.tables import CURVES, DIFFERENCES, KNEES
from essential_sparsity.planning.costs import COSTS
from essential_sparsity.pruning.tables import LAYERS

SCHEMAS = {
    s.name: s
    for s in (EVALUATIONS, KNEES, CURVES, DIFFERENCES, LAYERS, WEIGHTS, TRAJECTORIES, HISTOGRAMS, CHANGES, COSTS)
}
