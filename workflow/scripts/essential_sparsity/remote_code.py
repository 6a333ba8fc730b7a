"""Models that bring code of their own: refused, unless their registry entry says that the code may run."""

from __future__ import annotations

from pathlib import Path

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
        UserError: The model needs its own code and is not trusted.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    try:
        contents = read_json(config)
    except ValueError:
        # Whoever reads the configuration says so.
        return
    model_type = contents.get("model_type")
    if trusted or not contents.get("auto_map") or model_type in CONFIG_MAPPING_NAMES:
        return
    raise UserError(
        where=f"{where}, file {config.name}",
        found=f"the model type '{model_type}', which transformers {transformers.__version__} does not know and which "
        "code that comes with the model would have to build",
        expected="a model that transformers builds itself: nothing that is downloaded is run",
        mend="choose another model; if you have read the code and trust it, write `trust_remote_code: true` into the "
        "model's entry",
    )
