"""Models that bring code of their own: refused, unless their registry entry says that the code may run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.files import PROVENANCE
from essential_sparsity.errors import UserError
from essential_sparsity.files import read_json


def check_remote_code(config: Path, trusted: bool, where: str) -> None:
    """Refuse a model that transformers can only build by running code that comes with it.

    A model whose type transformers knows is built by transformers' own class, whatever code lies beside it.

    Args:
        config: The model's ``config.json``.
        trusted: Whether the registry entry says ``trust_remote_code: true``.
        where: The source's key, for messages.

    Raises:
        UserError: The model needs its own code and is not trusted, or the code lies in another repository.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    try:
        contents = read_json(config)
    except ValueError:
        # Whoever reads the configuration says so.
        return
    model_type = contents.get("model_type")
    if not contents.get("auto_map") or model_type in CONFIG_MAPPING_NAMES:
        return
    elsewhere = [str(r) for r in contents["auto_map"].values() if "--" in str(r)]
    if trusted and elsewhere:
        # transformers would fetch it in the middle of a job, at whatever commit it is then.
        raise UserError(
            where=f"{where}, file {config.name}, key auto_map",
            found=f"'{elsewhere[0]}', code in another repository",
            expected="code beside the model",
            mend="copy the model and the code into a folder, correct `auto_map` there and use `kind: path`",
        )
    if trusted:
        return
    raise UserError(
        where=f"{where}, file {config.name}",
        found=f"the model type '{model_type}', which transformers {transformers.__version__} does not know and which "
        "code that comes with the model would have to build",
        expected="a model that transformers builds itself: nothing that is downloaded is run",
        mend="choose another model; if you have read the code and trust it, write `trust_remote_code: true` into the "
        "model's entry",
    )


def copy_code(folder: Path, checkpoint: Path, trusted: bool) -> None:
    """Copy a trusted model's Python modules into its checkpoint."""
    for module in folder.glob("*.py") if trusted else ():
        shutil.copyfile(module, checkpoint / module.name)


def is_trusted(checkpoint: Path) -> bool:
    """Say whether code beside a checkpoint may run: its provenance records what the registry entry said."""
    provenance = checkpoint / PROVENANCE
    return provenance.is_file() and bool(read_json(provenance).get("trust_remote_code"))


def own_class_name(config: Any, auto_class: str) -> str:
    """Return the name of the class that a model brings for one of transformers' auto classes; empty if none."""
    reference = (getattr(config, "auto_map", None) or {}).get(auto_class)
    return reference.rsplit(".", 1)[-1] if isinstance(reference, str) else ""


def own_class(config: Any, checkpoint: Path) -> Any:
    """Return the model class that a trusted checkpoint brings along; None if it brings none that it names.

    Args:
        config: The checkpoint's configuration, whose ``auto_map`` says where its classes are.
        checkpoint: The checkpoint's folder, with the Python modules.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    references = getattr(config, "auto_map", None) or {}
    wanted = [r for auto, r in references.items() if own_class_name(config, auto) in (config.architectures or [])]
    return get_class_from_dynamic_module(wanted[0], checkpoint) if wanted and is_trusted(checkpoint) else None
