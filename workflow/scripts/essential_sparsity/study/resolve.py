"""From a study file to a study: read, checked, and resolved against the registries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from essential_sparsity.emergence.tables import WEIGHTS
from essential_sparsity.study.asked import ask
from essential_sparsity.study.checks import (
    check_calibration_texts,
    check_counts,
    check_references,
    check_similarities,
    check_sources,
)  # fmt: skip
from essential_sparsity.study.claims import checked_claims
from essential_sparsity.study.registries import read_registries
from essential_sparsity.study.study import Study
from essential_sparsity.study.validation import SCHEMAS, validate


def resolve(config: dict[str, Any], root: Path, file: str) -> Study:
    """Return the study of a file.

    Args:
        config: The study file's content; defaults are filled in.
        root: The folder that holds ``config/``, the registries.
        file: The study file's name, for messages.

    Raises:
        UserError: A key, value or name is wrong; the message says where and what to write.
    """
    validate(config, SCHEMAS / "study.schema.yaml", file)
    known = read_registries(config, root, file)
    check_references(known)
    check_counts(known)
    study = Study(**vars(known), asked=ask(known))
    check_similarities(study)
    check_sources(study)
    check_calibration_texts(study)
    return replace(study, claims=checked_claims(study, WEIGHTS.columns))
