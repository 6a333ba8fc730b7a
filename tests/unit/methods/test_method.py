"""Methods: sensible combinations of slots pass, senseless ones are refused with the key and the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.methods.allocation import ALLOCATIONS
from essential_sparsity.methods.method import Method, check_method
from essential_sparsity.methods.refinement import REFINEMENTS
from essential_sparsity.methods.rounds import Rounds
from essential_sparsity.methods.scores import SCORES
from essential_sparsity.methods.updates import UPDATES
from essential_sparsity.records import record
from essential_sparsity.study.validation import load_yaml

DENSE = {"calibration": "c", "propagate": "dense"}
PRUNED = {"calibration": "c", "propagate": "pruned"}
SGPT = {"score": "sparsegpt", "update": "sparsegpt"}

PUBLISHED = {
    "the paper": {"score": "magnitude", "scope": "global"},
    "random": {"score": "random", "scope": "layer", "allocation": "erk"},
    "wanda": {"score": "wanda", "scope": "row", "compat": "published", **PRUNED},
    "wanda 2:4": {"score": "wanda", "scope": "row", "pattern": "2:4", **PRUNED},
    "wanda, one pool": {"score": "wanda", "scope": "global", **DENSE},
    "sparsegpt": {**SGPT, "scope": "column-block", "compat": "published", **PRUNED},
    "sparsegpt 2:4": {**SGPT, "scope": "row", "pattern": "2:4", **PRUNED},
    "ria": {"score": "ria", "scope": "layer", "compat": "published", **PRUNED},
    "multiflow": {"score": "multiflow", "scope": "layer", "allocation": "magnitude", **DENSE},
    "owl": {"score": "wanda", "scope": "row", "allocation": "owl", **PRUNED},
    "owl by magnitude": {"score": "magnitude", "scope": "layer", "allocation": "owl", **PRUNED},
    "alpha-pruning": {"score": "magnitude", "scope": "layer", "allocation": "alpha-pruning"},
    "dsnot": {"score": "wanda", "scope": "row", "refinement": "dsnot", **PRUNED},
    "magnitude, reconstructed": {"score": "magnitude", "scope": "global", "update": "reconstruct", **DENSE},
    "dsnot, then sparsegpt's update": {
        "score": "wanda", "scope": "row", "refinement": "dsnot", "update": "sparsegpt", **PRUNED,
    },
}  # fmt: skip


@pytest.mark.parametrize("slots", PUBLISHED.values(), ids=PUBLISHED)
def test_published_methods_and_sensible_others_pass(slots: dict[str, Any]) -> None:
    check_method(record(Method, slots), "methods.mine")


ROUNDS = {"score": "magnitude", "scope": "global", "rounds": {"task": "t", "levels": [0.3, 0.5, 0.9]}}

SENSELESS: list[tuple[dict[str, Any], str, str]] = [
    ({"score": "magnitude", "scope": "global", "pattern": "2:4"}, "scope", "compete within groups of a row"),
    ({"score": "magnitude", "scope": "layer", "pattern": "2:4"}, "scope", "compete within groups of a row"),
    ({**SGPT, "scope": "column-block", "pattern": "2:4", **PRUNED}, "scope", "compete within groups of a row"),
    (
        {"score": "magnitude", "scope": "row", "pattern": "2:4", "allocation": "erk"},
        "allocation", "removes the same share of every group",
    ),
    (
        {"score": "magnitude", "scope": "global", "allocation": "erk"},
        "allocation", "one pool of all weights divides the budget itself",
    ),
    ({"score": "wanda", "scope": "global", **PRUNED}, "calibration", "needed before the first block can be pruned"),
    (
        {"score": "magnitude", "scope": "global", "update": "reconstruct", **PRUNED},
        "calibration", "needed before the first block can be pruned",
    ),
    ({"score": "magnitude", "scope": "global", "compat": "published"}, "compat", "references count as we do"),
    (
        {"score": "wanda", "scope": "row", "pattern": "2:4", "compat": "published", **PRUNED},
        "compat", "references count as we do",
    ),
    (
        {"score": "wanda", "scope": "row", "pattern": "2:4", "refinement": "dsnot", **PRUNED},
        "refinement", "exchanges across groups would break",
    ),
    ({**SGPT, "scope": "column-block", "refinement": "dsnot", **PRUNED}, "refinement", "bound to its update"),
    ({**ROUNDS, "score": "random"}, "score", "smallest trained weights"),
    ({**ROUNDS, "score": "wanda", **DENSE}, "score", "smallest trained weights"),
    ({**ROUNDS, "scope": "layer"}, "scope", "smallest trained weights"),
    ({**ROUNDS, "scope": "row", "pattern": "2:4"}, "scope", "smallest trained weights"),
    ({**ROUNDS, "update": "reconstruct", **DENSE}, "update", "smallest trained weights"),
    ({**ROUNDS, "refinement": "dsnot", **DENSE}, "refinement", "smallest trained weights"),
    ({**ROUNDS, **DENSE}, "calibration", "use no statistics of the inputs"),
    ({"score": "wanda", "scope": "row"}, "calibration", "need statistics of the inputs"),
    ({"score": "magnitude", "scope": "layer", "allocation": "owl"}, "calibration", "allocation owl"),
    ({"score": "magnitude", "scope": "layer", "refinement": "dsnot"}, "calibration", "refinement dsnot"),
    ({"score": "magnitude", "scope": "layer", "update": "reconstruct"}, "calibration", "update reconstruct"),
    ({"score": "magnitude", "scope": "layer", **DENSE}, "calibration", "use no statistics of the inputs"),
    (
        {"score": "random", "scope": "layer", "allocation": "alpha-pruning", **PRUNED},
        "calibration", "use no statistics of the inputs",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("slots", "key", "reason"), SENSELESS)
def test_a_senseless_combination_is_refused_with_the_key_the_reason_and_the_mend(
    slots: dict[str, Any], key: str, reason: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_method(record(Method, slots), "methods.mine")
    assert caught.value.where == f"methods.mine.{key}"
    assert reason in caught.value.found
    assert caught.value.mend


@pytest.mark.parametrize(
    ("slot", "misspelt", "meant"),
    [
        ("score", "magnitud", "magnitude"),
        ("score", "sparse-gpt", "sparsegpt"),
        ("allocation", "alphapruning", "alpha-pruning"),
        ("scope", "rows", "row"),
        ("scope", "column_block", "column-block"),
        ("refinement", "dsnott", "dsnot"),
        ("update", "reconstruction", "reconstruct"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(slot: str, misspelt: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        slots: dict[str, Any] = {"score": "magnitude", "scope": "layer", slot: misspelt}
        check_method(record(Method, slots), "methods.mine")
    assert caught.value.where == f"methods.mine.{slot}"
    assert misspelt in caught.value.found
    assert f"'{meant}'" in caught.value.expected
    assert caught.value.mend == f"write '{meant}' instead of '{misspelt}'"


@pytest.mark.parametrize("pattern", ["4:2", "2:2", "0:4", "2-4", "2:4:8", "", ":", "a:b", "-1:4", "2:4 "])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=r"methods\.mine\.pattern.*0 < N < M"):
        check_method(Method("magnitude", "row", pattern=pattern), "methods.mine")


@pytest.mark.parametrize("pattern", ["1:2048", "2047:2048"])
def test_a_pattern_that_no_level_can_name_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=r"methods\.mine\.pattern.*between 0\.001 and 0\.999"):
        check_method(Method("magnitude", "row", pattern=pattern), "methods.mine")


@pytest.mark.parametrize(
    ("slots", "option", "known"),
    [
        ({"score": "wanda", "scope": "row", **DENSE}, "ria_power", "no options"),
        ({"score": "ria", "scope": "row", **DENSE}, "owl_range", "one of 'ria_power'"),
        ({"score": "magnitude", "scope": "layer", "update": "reconstruct", **DENSE}, "block_size", "one of 'damping'"),
        ({"score": "magnitude", "scope": "layer", "refinement": "dsnot", **DENSE}, "damping", "'dsnot_cycles'"),
    ],
)
def test_an_option_that_no_slot_reads_is_refused(slots: dict[str, Any], option: str, known: str) -> None:
    with pytest.raises(UserError) as caught:
        check_method(Method(**slots, options={option: 0.5}), "methods.mine")
    assert caught.value.where == f"methods.mine.options.{option}"
    assert known in caught.value.expected


def test_every_option_of_the_schema_is_read_by_some_slot_and_the_other_way_round() -> None:
    schema = load_yaml(Path(__file__).parents[3] / "workflow/schemas/methods.schema.yaml")
    entries = [*SCORES.values(), *ALLOCATIONS.values(), *REFINEMENTS.values(), *UPDATES.values()]
    read = {option for entry in entries for option in entry.options}
    assert read == set(schema["additionalProperties"]["properties"]["options"]["properties"])


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "1:2", "3:16"])
def test_n_of_m_is_n_kept_and_fixes_the_sparsity(pattern: str) -> None:
    method = Method("magnitude", "row", pattern=pattern)
    check_method(method, "methods.mine")
    kept, size = map(int, pattern.split(":"))
    assert method.group == (kept, size)
    assert method.sparsity(0.123) == 1 - kept / size


def test_an_unstructured_method_has_the_sparsity_that_is_asked() -> None:
    assert Method("magnitude", "row").group is None
    assert Method("magnitude", "row").sparsity(0.123) == 0.123


@pytest.mark.parametrize(
    ("slots", "needs", "dense_needs", "by_block"),
    [
        ({"score": "magnitude", "scope": "global"}, "nothing", "nothing", False),
        ({"score": "wanda", "scope": "row", **PRUNED}, "moments", "nothing", True),
        ({"score": "wanda", "scope": "row", **DENSE}, "moments", "moments", False),
        ({"score": "magnitude", "scope": "layer", "allocation": "owl", **PRUNED}, "nothing", "moments", False),
        ({"score": "wanda", "scope": "row", "allocation": "owl", **PRUNED}, "moments", "moments", True),
        ({"score": "magnitude", "scope": "layer", "refinement": "dsnot", **DENSE}, "moments", "moments", False),
        ({"score": "wanda", "scope": "row", "update": "reconstruct", **PRUNED}, "hessians", "nothing", True),
        ({"score": "wanda", "scope": "row", "update": "sparsegpt", **DENSE}, "hessians", "hessians", False),
    ],
)
def test_a_method_asks_for_the_statistics_that_its_slots_use(
    slots: dict[str, Any], needs: str, dense_needs: str, by_block: bool
) -> None:
    method = record(Method, slots)
    check_method(method, "methods.mine")
    assert (method.needs, method.dense_needs, method.by_block) == (needs, dense_needs, by_block)
    assert method.calibrated == bool(method.calibration)


@pytest.mark.parametrize(
    ("slots", "adaptive"),
    [
        ({**SGPT, "scope": "column-block"}, True),
        ({**SGPT, "scope": "row", "pattern": "2:4"}, True),
        ({**SGPT, "scope": "layer"}, False),
        ({"score": "sparsegpt", "scope": "column-block"}, False),
        ({"score": "wanda", "update": "sparsegpt", "scope": "column-block"}, False),
    ],
)
def test_sparsegpt_chooses_and_updates_in_turns_where_it_is_published_so(slots: dict[str, Any], adaptive: bool) -> None:
    assert record(Method, slots).adaptive is adaptive


def test_a_method_is_what_its_dictionary_says() -> None:
    method = Method("wanda", "row", options={"owl_range": 0.1}, **DENSE)
    assert record(Method, method.to_dict()) == method


def test_a_level_of_rounds_depends_on_no_later_one() -> None:
    method = record(Method, ROUNDS)
    check_method(method, "methods.mine")
    assert method.up_to(0.5).rounds == Rounds("t", [0.3, 0.5])
    assert method.up_to(0.9) == method == record(Method, method.to_dict())
    assert not method.planned, "each round reads its cut off the weights that it trained"


def test_a_method_of_one_shot_is_written_without_rounds() -> None:
    method = Method("magnitude", "global")
    assert "rounds" not in method.to_dict(), "masks that are there name their method without it"
    assert method.up_to(0.3) is method
