"""The checkpoints of a pre-training: which steps are kept and what they are called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from essential_sparsity.errors import UserError

FINAL = "final"
# So many checkpoints are named in a sentence.
_SHOWN = 8
# With fewer evenly spaced steps, how smooth a drift is cannot be told from a jump.
LEAST_STEPS = 20
# Of more, evenly spaced ones are taken: the time of a test grows with the square of their number.
MOST_STEPS = 240


@dataclass(frozen=True)
class Place:
    """Where on the hub a checkpoint is.

    Attributes:
        repository: ``org/name``.
        revision: A branch, tag or commit.
    """

    repository: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The steps of a pre-training on the model hub.

    Attributes:
        repository: ``org/name``; in it or in ``revision`` ``{step}`` or ``{thousands}`` stands.
        revision: A branch, tag or commit.
        steps: As of :func:`listed_steps`.
        revisions: Instead of ``steps``: the revision of each, where no format names them.
        final: The end of the pre-training, where it is apart from the steps.
    """

    repository: str
    revision: str
    steps: Sequence[int] | Mapping[str, int] | None = None
    revisions: Mapping[str, str] | None = None
    final: Place | None = None


def checkpoint_steps(steps: int, checkpoints: int, first: int) -> list[int]:
    """Return the steps to keep: 0, then ``checkpoints - 1`` evenly spaced in the logarithm from ``first`` on."""
    # Downwards, so that two checkpoints are step 0 and the last.
    spaced = np.geomspace(steps, min(first, steps), checkpoints - 1).round().astype(int)
    return sorted({0, *map(int, spaced)})


def step_name(step: int) -> str:
    """Return the name of a checkpoint: ``step000128``."""
    return f"step{step:06d}"


def step_of(checkpoint: str) -> int | None:
    """Return the step that a checkpoint's name says; None for ``final``, whose step is not known."""
    return None if checkpoint == FINAL else int(checkpoint.removeprefix("step"))


def checkpoint_label(checkpoint: str) -> str:
    """Return what a reader calls a checkpoint: ``final`` or ``step 3,000``."""
    step = step_of(checkpoint)
    return FINAL if step is None else f"step {step:,}"


def listed_checkpoints(checkpoints: Iterable[str]) -> str:
    """Return what a reader calls several checkpoints; of many the first of training and how many more there are."""
    names = sorted(checkpoints, key=checkpoint_age)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(checkpoint_label, names[:_SHOWN])) + more


def same_weights(provenance: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], list[str]]:
    """Return the checkpoints of a model whose weights are the same bytes, by the model and the SHA-256.

    Public suites have them: a step under whose name the weights of another were uploaded.

    Args:
        provenance: Of each checkpoint ``model, checkpoint, weights_sha256``; of the weights as they were extracted, so
            that neither shards nor the commit nor the format of the source matters.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for row in provenance:
        alike.setdefault((row["model"], row["weights_sha256"]), []).append(row["checkpoint"])
    return {key: sorted(names, key=checkpoint_age) for key, names in alike.items() if len(names) > 1}


def checkpoint_age(checkpoint: str) -> float:
    """Return a number that orders checkpoints by pre-training; ``final`` is the last."""
    step = step_of(checkpoint)
    return math.inf if step is None else float(step)


def listed_steps(steps: Sequence[int] | Mapping[str, int]) -> list[int]:
    """Return the steps of a trajectory, ascending.

    Args:
        steps: The steps themselves, or a rule: ``from, to, every`` for evenly spaced ones (``to`` is the last), and
            ``powers_of_two_to`` for 0, 1, 2, 4 and so on up to a step.
    """
    if not isinstance(steps, Mapping):
        return sorted(set(steps))
    found: set[int] = set()
    if "every" in steps:
        found |= set(range(steps["from"], steps["to"] + 1, steps["every"]))
    if "powers_of_two_to" in steps:
        found |= {0, *(2**power for power in range(steps["powers_of_two_to"].bit_length()))}
    return sorted(found)


def even_steps(steps: Iterable[int]) -> list[int]:
    """Return the longest evenly spaced run of steps, thinned evenly to ``MOST_STEPS``.

    Between checkpoints that lie ever further apart a smooth course seems to jump: the spacing, not the model, would be
    what is found. Of runs of one length the one over more steps is taken.
    """
    present = set(steps)
    ordered = sorted(present)
    best: list[int] = ordered[:1]
    for spacing in {later - earlier for earlier, later in pairwise(ordered)}:
        for start in ordered:
            if start - spacing in present:
                continue
            run = [start]
            while run[-1] + spacing in present:
                run.append(run[-1] + spacing)
            best = max(best, run, key=lambda found: (len(found), found[-1] - found[0]))
    return best[:: -(-len(best) // MOST_STEPS)]


def _at_step(template: str, step: int, where: str) -> str:
    """Fill a step into a name: ``{step}``, or ``{thousands}`` where names count in thousands of steps."""
    if "{thousands}" in template and step % 1000:
        raise UserError(
            where, f"step {step}, which '{template}' cannot name", "a multiple of 1000 wherever {thousands} stands",
            "correct `steps`, or write {step}",
        )  # fmt: skip
    return template.replace("{step}", str(step)).replace("{thousands}", str(step // 1000))


def hub_steps(trajectory: Trajectory, where: str) -> dict[str, Place]:
    """Return where on the hub each checkpoint of a trajectory is, by its name.

    Args:
        trajectory: The registry entry's.
        where: The registry key, for messages.

    Returns:
        In the order of training.

    Raises:
        UserError: No step, or the same place for all of them.
    """
    repository, revision = trajectory.repository, trajectory.revision
    if trajectory.revisions is not None:
        # Keys that were written to JSON and back are texts.
        places = {int(step): Place(repository, str(name)) for step, name in trajectory.revisions.items()}
    else:
        places = {
            step: Place(_at_step(repository, step, f"{where}.steps"), _at_step(revision, step, f"{where}.steps"))
            for step in listed_steps(trajectory.steps or ())
        }
    if not places or (len(places) > 1 and len(set(places.values())) == 1):
        raise UserError(
            f"{where}.steps" if not places else where,
            "no step" if not places else f"'{repository}' at '{revision}' for every step",
            "at least one step" if not places else "{step} or {thousands} in `repository` or in `revision`",
            "correct `steps`" if not places else "write how the steps are named, or list `revisions`",
        )
    found = {step_name(step): places[step] for step in sorted(places)}
    return found | ({FINAL: trajectory.final} if trajectory.final else {})
