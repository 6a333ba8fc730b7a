"""What statistics of claims are computed from: the curves of a study with their draws, and its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from essential_sparsity.findings.claims import Group, Part
from essential_sparsity.findings.estimates import Unit
from essential_sparsity.knees.analysis import Curve, Measured, Reading, measure, read_knee
from essential_sparsity.knees.curves import Curve as Place
from essential_sparsity.knees.curves import curves
from essential_sparsity.knees.readings import CODES, LEFT, RIGHT, Settings
from essential_sparsity.knees.samples import Examples


class MissingEvidenceError(Exception):
    """Why a statistic has no value."""


class Evidence:
    """The curves of a study, read when they are asked for, and tables.

    Args:
        evaluations: The table of evaluations.
        examples: The examples behind them.
        settings: The study's ``knees``.
        last: The last checkpoint of every model.
        tables: ``similarities``, ``changes`` and ``weights``, those that the claims read.
        drawn: The methods whose masks depend on a seed.
    """

    def __init__(
        self, evaluations: pd.DataFrame, examples: Examples, settings: Settings, last: Mapping[str, str],
        tables: Mapping[str, pd.DataFrame], drawn: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.evaluations = evaluations
        self.settings = settings
        self.last = last
        self.tables = tables
        self.drawn = drawn
        self._examples = examples
        self._rows = {
            (axes["model"], axes["checkpoint"], axes["method"], axes["task"]): (axes, rows)
            for axes, rows in curves(evaluations)
        }
        self._measured: dict[Place, Measured] = {}

    @property
    def confidence(self) -> float:
        """The confidence of the intervals."""
        return self.settings.confidence

    def places(self) -> list[Place]:
        """Return all curves of the study."""
        return sorted(self._rows)

    def measured(self, place: Place) -> Measured:
        """Return a curve with its draws: those from which the study's knees and differences have their intervals.

        Raises:
            MissingEvidenceError: It was not evaluated.
        """
        if place not in self._rows:
            raise MissingEvidenceError(f"{'/'.join(place)} was not evaluated")
        if place not in self._measured:
            axes, rows = self._rows[place]
            self._measured[place] = measure(axes, rows, self.settings.draws, self._examples)
        return self._measured[place]

    def of_part(self, part: Part) -> Iterator[Measured]:
        """Yield the curves of a part of a claim, one for each model."""
        for place in part.places(self.last):
            yield self.measured(place)

    def reading(self, curve: Curve, rule: str) -> Reading:
        """Return the knee of a curve by a rule.

        Raises:
            MissingEvidenceError: It has none.
        """
        reading = read_knee(curve, rule, self.settings)
        if reading.knee.knee is None:
            raise MissingEvidenceError(f"no knee: {'; '.join(reading.knee.flags)}")
        return reading

    def knee_units(self, part: Part) -> list[Unit]:
        """Return the knees of a part of a claim, one for each model."""
        return [
            knee_unit(found.mean, self.reading(found.mean, part.rule), len(found.seeds), found.doubts)
            for found in self.of_part(part)
        ]

    def weights_of(self, group: Group, column: str) -> list[Unit]:
        """Return a statistic of the weights of each model of a group: the mean over its matrices, weighted by size."""
        table = self.tables["weights"]
        units = []
        for model, checkpoint in group.checkpoints(self.last).items():
            rows = table[(table["model"] == model) & (table["checkpoint"] == checkpoint)]
            if rows.empty:
                raise MissingEvidenceError(f"the weights of {model}/{checkpoint} were not measured")
            value = float(np.average(rows[column].to_numpy(float), weights=rows["n"].to_numpy(float)))
            units.append(Unit(value, value, value, None))
        return units


def knee_unit(curve: Curve, reading: Reading, seeds: int, doubts: tuple[str, ...] = ()) -> Unit:
    """Return a knee with its bounds: one that is censored lies between its level and the end of the scale."""
    knee = reading.knee
    assert knee.knee is not None
    first = float(curve.sparsity[1])
    least, most = (0.0 if knee.censored == LEFT else knee.knee), (1.0 if knee.censored == RIGHT else knee.knee)
    flags = [*curve.flags, *knee.flags, *doubts]
    if knee.censored == LEFT:
        most = max(most, first)
        flags.append(f"a knee lies before the first level, {100 * first:g} %: only that bound is used")
    if knee.censored == RIGHT:
        flags.append(f"a knee lies beyond {100 * knee.knee:g} %, where its rule can see: only that bound is used")
    draws = None
    if reading.draws is not None:
        low, high = reading.draws.knee.copy(), reading.draws.knee.copy()
        left, right = (reading.draws.censored == CODES[side] for side in (LEFT, RIGHT))
        low[left], high[left], high[right] = 0.0, np.maximum(high[left], first), 1.0
        draws = np.stack([low, high])
    return Unit(knee.knee, least, most, draws, seeds, tuple(dict.fromkeys(flags)))
