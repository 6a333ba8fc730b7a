"""The statistic of claims about what knees depend on: components of their variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from essential_sparsity.findings.claims import VarianceShare
from essential_sparsity.findings.estimates import Estimate
from essential_sparsity.findings.evidence import Evidence, MissingEvidenceError
from essential_sparsity.inference import Floats, generator_of
from essential_sparsity.knees.intervals import quantiles
from essential_sparsity.knees.readings import NOT_CENSORED

FACTORS = ("model", "task", "method")
SEED, INTERACTION = "seed", "interaction"
# A variance that rounding leaves of equal numbers, as a share of their mean square.
_NOTHING = 1e-12


@dataclass(frozen=True)
class _Observation:
    """A knee of a seed's curve: its levels of the factors, and its draws (draws,), where there are some."""

    cell: tuple[str, str, str]
    knee: float
    draws: Floats | None


def variance_share(of: VarianceShare, evidence: Evidence) -> Estimate:
    """Return the share of a factor in the variance of the knees of single seeds, at each model's last checkpoint.

    Model, task and method are random factors, with what is left of their interactions and, where cells have several
    seeds, the seed: :func:`components`. Components below 0 count as 0. The interval holds the quantiles over draws of
    the examples with seeds drawn anew within every cell, deviations widened by ``sqrt(n / (n - 1))``; models, tasks and
    methods are those of the study, and the share is among them.
    """
    observed, flags = _observed(of, evidence)
    cells = [o.cell for o in observed]
    values = np.array([o.knee for o in observed])
    found = components(cells, values[None])
    if of.factor not in found:
        raise MissingEvidenceError(f"the curves do not tell the share of the {of.factor} apart: {len(observed)} knees")
    shares, negative = _shares(found, of.factor)
    if np.isnan(shares[0]):
        raise MissingEvidenceError("all knees are the same")
    sizes = {cell: cells.count(cell) for cell in cells}
    flags += [f"{name}: component below 0, taken as 0" for name in negative]
    flags.append(f"among {len(sizes)} curves of this study")
    drawn = _drawn(observed, int(evidence.settings.draws))
    low, high = quantiles(_known(_shares(components(cells, drawn), of.factor)[0]), evidence.confidence)
    share = float(shares[0])
    return Estimate(share, min(float(low), share), max(float(high), share), min(sizes.values()), tuple(flags))


def _known(shares: Floats) -> Floats:
    return shares[~np.isnan(shares)]


def _observed(of: VarianceShare, evidence: Evidence) -> tuple[list[_Observation], list[str]]:
    """Return the knees of the claim's curves, and how many were left out."""
    observed, without, censored = [], 0, 0
    for place in evidence.places():
        model, checkpoint, method, task = place
        chosen = zip((model, method, task), (of.models, of.methods, of.tasks), strict=True)
        if checkpoint != evidence.last.get(model) or any(names and name not in names for name, names in chosen):
            continue
        for curve in evidence.measured(place).seeds.values():
            try:
                reading = evidence.reading(curve, of.rule)
            except MissingEvidenceError:
                without += 1
                continue
            assert reading.knee.knee is not None
            censored += reading.knee.censored != NOT_CENSORED
            draws = None if reading.draws is None else reading.draws.knee
            observed.append(_Observation((model, task, method), reading.knee.knee, draws))
    if len(observed) < 3:
        raise MissingEvidenceError(f"{len(observed)} knees of single seeds; {without} curves have none")
    flags = [f"{without} curves without a knee are left out"] if without else []
    return observed, flags + ([f"{censored} knees lie outside the levels: their bounds are used"] if censored else [])


def _drawn(observed: Sequence[_Observation], draws: int) -> Floats:
    """Return draws of all knees (draws, observations); a draw without a knee has that of its curve."""
    found = np.stack(
        [np.full(draws, o.knee) if o.draws is None else np.where(np.isnan(o.draws), o.knee, o.draws) for o in observed],
        axis=1,
    )
    rows = np.arange(draws)[:, None]
    for cell in dict.fromkeys(o.cell for o in observed):
        places = np.array([i for i, o in enumerate(observed) if o.cell == cell])
        n = len(places)
        if n < 2:
            continue
        chosen = found[rows, places[generator_of("seeds of a cell", *cell).integers(0, n, (draws, n))]]
        middle = found[:, places].mean(axis=1, keepdims=True)
        found[:, places] = middle + np.sqrt(n / (n - 1)) * (chosen - middle)
    return found


def components(cells: Sequence[tuple[str, str, str]], values: Floats) -> dict[str, Floats]:
    """Return the components of variance of values, as Henderson's third method estimates them (Biometrics 1953).

    The reduction in the sum of squares by each factor, given the others, and by the cells given all factors, is a
    quadratic form ``y' M y`` of expectation ``sum_f var_f tr(M Z_f Z_f') + var_seed tr(M)``: as many linear equations
    as components. In a balanced design this is the analysis of variance.

    Args:
        cells: Model, task and method of each value.
        values: Of shape (draws, n).

    Returns:
        For each of :data:`FACTORS` that varies, ``interaction`` where there is room for it beside the seed, and
        ``seed`` where cells have several, the component (draws,). Without several seeds in a cell, interaction and seed
        are one, ``interaction``. Factors that the design does not tell apart are not in it.
    """
    n = len(cells)
    designs = {name: _indicators([cell[i] for cell in cells]) for i, name in enumerate(FACTORS)}
    designs = {name: z for name, z in designs.items() if z.shape[1] > 1}
    per_cell = _indicators(list(cells))
    everything = _projection(np.hstack([np.ones((n, 1)), *designs.values()]))
    forms = {
        name: everything - _projection(np.hstack([np.ones((n, 1)), *(z for o, z in designs.items() if o != name)]))
        for name in designs
    }
    replicated = per_cell.shape[1] < n
    residual = SEED if replicated else INTERACTION
    if replicated and round(float(np.trace(everything))) < per_cell.shape[1]:
        designs[INTERACTION] = per_cell
        forms[INTERACTION] = _projection(per_cell) - everything
        forms[residual] = np.eye(n) - _projection(per_cell)
    else:
        forms[residual] = np.eye(n) - everything
    forms = {name: form for name, form in forms.items() if np.trace(form) > 0.5}
    if residual not in forms:
        return {}
    known = [name for name in designs if name in forms]
    traces = np.array([
        [*(float((form * (designs[name] @ designs[name].T)).sum()) for name in known), float(np.trace(form))]
        for form in (forms[name] for name in [*known, residual])
    ])  # fmt: skip
    sums = np.stack([((values @ forms[name]) * values).sum(axis=1) for name in [*known, residual]])
    return dict(zip([*known, residual], np.linalg.solve(traces, sums), strict=True))


def _indicators(labels: Sequence[Any]) -> Floats:
    levels = list(dict.fromkeys(labels))
    return np.array([[float(label == level) for level in levels] for label in labels])


def _projection(design: Floats) -> Floats:
    return np.asarray(design @ np.linalg.pinv(design))


def _shares(found: Mapping[str, Floats], factor: str) -> tuple[Floats, list[str]]:
    """Return the share of a factor (draws,), NaN where nothing varies, and the components below 0 in the first."""
    kept = {name: np.maximum(0.0, part) for name, part in found.items()}
    total = sum(kept.values(), np.zeros(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(total > _NOTHING, kept[factor] / total, np.nan)
    return np.asarray(shares), [name for name, part in found.items() if part[0] < -_NOTHING]
