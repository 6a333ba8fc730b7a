"""Methods: score x allocation x scope x pattern, with refinement and update, and which combinations make sense."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.methods.allocation import ALLOCATIONS
from essential_sparsity.methods.refinement import REFINEMENTS
from essential_sparsity.methods.rounds import Rounds
from essential_sparsity.methods.scores import SCORES
from essential_sparsity.methods.statistics import Needs, Options
from essential_sparsity.methods.updates import UPDATES
from essential_sparsity.records import plain

UNSTRUCTURED = "unstructured"
SCOPES = {
    "global": "one pool of all prunable weights",
    "layer": "each matrix by itself",
    "row": "each output row of a matrix by itself",
    "column-block": "blocks of 128 columns, across all rows (SparseGPT)",
}
_ORDER: list[Needs] = ["nothing", "moments", "hessians"]


@dataclass(frozen=True)
class Method:
    """A method, as its registry entry says.

    Attributes:
        score: A key of ``SCORES``.
        allocation: A key of ``ALLOCATIONS``.
        scope: A key of ``SCOPES``.
        pattern: ``unstructured``, or ``N:M`` with N kept of every M consecutive weights of a row.
        refinement: ``none`` or a key of ``REFINEMENTS``.
        update: ``none`` or a key of ``UPDATES``.
        compat: ``exact``, or ``published`` for the references' own rules of counting and of ties.
        calibration: Name of the registry's calibration; empty if nothing is calibrated.
        propagate: That calibration's; empty if nothing is calibrated.
        options: Numbers that the slots take.
        rounds: Of iterative pruning; None for one shot.
        label: What plots call it; empty in a job.
    """

    score: str
    scope: str
    allocation: str = "uniform"
    pattern: str = UNSTRUCTURED
    refinement: str = "none"
    update: str = "none"
    compat: str = "exact"
    calibration: str = ""
    propagate: str = ""
    options: Options = field(default_factory=dict)
    rounds: Rounds | None = None
    label: str = ""

    @property
    def group(self) -> tuple[int, int] | None:
        """N and M of the pattern; None if it is unstructured."""
        if self.pattern == UNSTRUCTURED:
            return None
        kept, size = self.pattern.split(":")
        return int(kept), int(size)

    @property
    def needs(self) -> Needs:
        """The statistics of the inputs that its slots use to choose or to update weights."""
        wanted: list[Needs] = [SCORES[self.score].needs]
        if self.refinement != "none":
            wanted.append(REFINEMENTS[self.refinement].needs)
        if self.update != "none":
            wanted.append(UPDATES[self.update].needs)
        return max(wanted, key=_ORDER.index)

    @property
    def dense_needs(self) -> Needs:
        """The statistics that it takes from one pass through the dense model."""
        allocated = ALLOCATIONS[self.allocation].needs
        return allocated if self.by_block else max(allocated, self.needs, key=_ORDER.index)

    @property
    def calibrated(self) -> bool:
        """Whether it uses statistics of the inputs at all."""
        return self.needs != "nothing" or ALLOCATIONS[self.allocation].needs != "nothing"

    @property
    def planned(self) -> bool:
        """Whether its levels share something that is found beforehand: a pool's cuts, or an allocation's measure."""
        return not self.rounds and (self.scope == "global" or ALLOCATIONS[self.allocation].measure is not None)

    @property
    def by_block(self) -> bool:
        """Whether it prunes block by block, each with the inputs that the pruned blocks before it hand on."""
        return self.needs != "nothing" and self.propagate == "pruned"

    @property
    def adaptive(self) -> bool:
        """Whether weights are chosen and updated in turns, as SparseGPT publishes it."""
        chosen_in_turns = self.scope == "column-block" or self.group is not None
        return self.score == "sparsegpt" and self.update == "sparsegpt" and chosen_in_turns

    @property
    def known_options(self) -> set[str]:
        """The names of the options that its slots read."""
        found = {*SCORES[self.score].options, *ALLOCATIONS[self.allocation].options}
        if self.refinement != "none":
            found.update(REFINEMENTS[self.refinement].options)
        if self.update != "none":
            found.update(UPDATES[self.update].options)
        if self.scope == "column-block":
            found.add("block_size")
        return found

    @property
    def entries(self) -> dict[str, str]:
        """Its entry of each registry of slots, by the registry's name."""
        return {
            "SCORES": self.score, "ALLOCATIONS": self.allocation, "REFINEMENTS": self.refinement,
            "UPDATES": self.update,
        }  # fmt: skip

    def sparsity(self, level: float) -> float:
        """Return the exact sparsity that a level stands for: of N:M, 1 - N/M, which three decimals may not hold."""
        return level if self.group is None else 1 - self.group[0] / self.group[1]

    def up_to(self, level: float) -> Method:
        """Return what a level depends on: of a method with rounds, those up to the level."""
        if not self.rounds:
            return self
        levels = [s for s in self.rounds.levels if s <= level + 1e-9]
        return replace(self, rounds=replace(self.rounds, levels=levels))

    def to_dict(self) -> dict[str, Any]:
        """Return what files and parameters hold."""
        return {key: value for key, value in plain(self).items() if key != "label"}


def check_method(method: Method, where: str) -> None:
    """Refuse slots that do not exist and combinations that make no sense.

    Raises:
        UserError: Says which key, and why.
    """
    for slot, value, known in (
        ("score", method.score, list(SCORES)),
        ("allocation", method.allocation, list(ALLOCATIONS)),
        ("scope", method.scope, list(SCOPES)),
        ("refinement", method.refinement, ["none", *REFINEMENTS]),
        ("update", method.update, ["none", *UPDATES]),
    ):
        if value not in known:
            raise UserError(
                f"{where}.{slot}", f"the unknown {slot} '{value}'", f"one of {quoted(known)}",
                did_you_mean(value, known),
            )  # fmt: skip
    _check_pattern(method, where)
    for name in method.options:
        if name not in method.known_options:
            allowed = f"one of {quoted(sorted(method.known_options))}" if method.known_options else "no options"
            raise UserError(
                f"{where}.options.{name}", "an option that none of the method's slots reads", allowed,
                "remove it, or name the slot that it belongs to",
            )  # fmt: skip
    for key, wrong, why, mend in _senseless(method):
        if wrong:
            raise UserError(f"{where}.{key}", f"'{getattr(method, key)}' {why}", "slots that fit together", mend)


def _check_pattern(method: Method, where: str) -> None:
    if method.pattern == UNSTRUCTURED:
        return
    match = re.fullmatch(r"(\d+):(\d+)", method.pattern)
    if match is None or not 0 < int(match[1]) < int(match[2]):
        raise UserError(
            f"{where}.pattern", f"'{method.pattern}'", "'unstructured', or N:M with N kept of M weights, 0 < N < M",
            "write '2:4' (in quotes), say",
        )  # fmt: skip
    level = f"{1 - int(match[1]) / int(match[2]):.3f}"
    if level in {"0.000", "1.000"}:
        raise UserError(
            f"{where}.pattern", f"'{method.pattern}', a sparsity of {level}", "one between 0.001 and 0.999",
            "keep more or fewer weights of a group",
        )  # fmt: skip


def _senseless(m: Method) -> list[tuple[str, bool, str, str]]:
    """Return key, whether it is at fault, why, and the mend, for every rule of combination."""
    grouped = m.pattern != UNSTRUCTURED
    return [
        (
            "scope", grouped and m.scope != "row",
            f"with the pattern {m.pattern}, whose weights compete within groups of a row only", "write `scope: row`",
        ),
        (
            "allocation", grouped and m.allocation != "uniform",
            f"with the pattern {m.pattern}, which removes the same share of every group",
            "write `allocation: uniform`",
        ),
        (
            "allocation", m.scope == "global" and m.allocation != "uniform",
            "with the scope global, in which one pool of all weights divides the budget itself",
            "write `scope: layer` or `scope: row`, or `allocation: uniform`",
        ),
        (
            "calibration", m.scope == "global" and m.by_block,
            "with `propagate: pruned` and the scope global: all scores are needed before the first block can be pruned",
            "use a calibration with `propagate: dense`",
        ),
        *_senseless_in_rounds(m),
        (
            "compat", m.compat == "published" and (m.scope == "global" or grouped),
            f"with the scope {m.scope} and the pattern {m.pattern}, where the references count as we do",
            "write `compat: exact`",
        ),
        (
            "refinement", m.refinement != "none" and grouped,
            f"with the pattern {m.pattern}, which its exchanges across groups would break",
            "write `pattern: unstructured`",
        ),
        (
            "refinement", m.refinement != "none" and m.adaptive,
            "with SparseGPT's own choice of weights, which is bound to its update",
            "write `refinement: none`, or another score",
        ),
        (
            "calibration", m.calibrated and not m.calibration,
            f"with score {m.score}, allocation {m.allocation}, refinement {m.refinement}, update {m.update}, which "
            "need statistics of the inputs",
            "name an entry of the registry of calibrations",
        ),
        (
            "calibration", bool(m.calibration) and not m.calibrated,
            "with slots that use no statistics of the inputs", "remove it",
        ),
    ]  # fmt: skip


def _senseless_in_rounds(m: Method) -> list[tuple[str, bool, str, str]]:
    """Return the same for iterative pruning, whose rounds take the smallest trained weights of one pool."""
    if not m.rounds:
        return []
    why = "with `rounds`, which remove the smallest trained weights of one pool and rewind the others"
    return [
        ("score", m.score != "magnitude", why, "write `score: magnitude`, or remove `rounds`"),
        ("scope", m.scope != "global", why, "write `scope: global`, or remove `rounds`"),
        ("refinement", m.refinement != "none", why, "write `refinement: none`, or remove `rounds`"),
        ("update", m.update != "none", why, "write `update: none`, or remove `rounds`"),
    ]
