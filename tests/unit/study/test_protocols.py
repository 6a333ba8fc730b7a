"""A protocol's record agrees with what else knows it: the schema, the needs, the scripts, what prepares its inputs."""

from __future__ import annotations

from pathlib import Path

import yaml

from essential_sparsity.data.prepare import PREPARE
from essential_sparsity.planning.needs import NEEDS
from essential_sparsity.study.protocols import EVALUATIONS, KEYS, PROTOCOLS


def test_what_a_record_names_is_there(root: Path) -> None:
    schema = yaml.safe_load((root / "workflow" / "schemas" / "tasks.schema.yaml").read_text())["additionalProperties"]
    assert set(schema["properties"]["protocol"]["enum"]) == set(PROTOCOLS)
    assert all(rule in NEEDS and (root / "workflow" / "scripts" / f"{rule}.py").is_file() for rule in EVALUATIONS)
    assert {kind for protocol in PROTOCOLS.values() for kind in protocol.inputs.values()} <= set(KEYS) == set(PREPARE)


def test_what_trains_or_chooses_examples_draws_from_its_seed() -> None:
    assert {name for name, protocol in PROTOCOLS.items() if protocol.draws} == {"finetune", "linear_probe", "knn"}
