"""A quick start of jobs: what torch and transformers import with the first model, and no job uses, is left out.

It takes more than half of the time that a small job needs to start. Importing this module does it, so it comes before
the first model does; whoever needs what was left out (a compiled model, say) still gets it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"


class _Deferred(ModuleType):
    """torch's compiler until somebody asks for it: then the real package takes its place.

    torch and transformers import the package only to mark functions that it is to leave alone. That mark is all that
    stands here; of what runs without a compiler, it is the function itself.
    """

    def disable(self, fn: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Callable[..., Any]:
        """Return the function, or what returns it where this is used as a decorator with arguments."""
        return (lambda wrapped: wrapped) if fn is None else fn

    def assume_constant_result(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function."""
        return fn

    allow_in_graph = assume_constant_result

    def graph_break(self, *_: Any, **__: Any) -> None:
        """Do nothing: there is no graph."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_load_compiler(), name)


def _load_compiler() -> ModuleType:
    import torch

    if isinstance(sys.modules.get(_COMPILER), _Deferred):
        del sys.modules[_COMPILER]
        torch._dynamo = importlib.import_module(_COMPILER)
    return sys.modules[_COMPILER]


def defer_compiler() -> None:
    """Put off the import of torch's compiler until something of it is used."""
    import torch

    if _COMPILER in sys.modules:
        return
    spec = importlib.util.find_spec(_COMPILER)
    deferred = _Deferred(_COMPILER)
    # Its modules can be imported one by one, as transformers does with a small one.
    deferred.__spec__, deferred.__path__ = spec, list(spec.submodule_search_locations or []) if spec else []
    sys.modules[_COMPILER] = torch._dynamo = deferred


def leave_out_unused_packages() -> None:
    """Keep transformers from importing what no job uses through it.

    That is datasets (tables are read by pyarrow), SciPy (losses of object detection), scikit-learn, flex attention, and
    tensors that several processes share, which stay where one of torch's launchers has started this process.
    transformers asks its own functions whether a part is there; nothing else that uses these packages is touched.
    """
    import transformers.utils
    from transformers.utils import import_utils

    unused = ["is_datasets_available", "is_scipy_available", "is_sklearn_available", "is_torch_flex_attn_available"]
    if "WORLD_SIZE" not in os.environ:
        unused.append("is_torch_distributed_available")
    for name in unused:
        for module in (import_utils, transformers.utils):
            setattr(module, name, lambda: False)


defer_compiler()
leave_out_unused_packages()
