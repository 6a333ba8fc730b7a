"""A quick start of jobs: what torch and transformers import with the first model, and no job uses, is left out.

It takes more than half of the time that a small job needs to start. Importing this module does it, so it comes before
the first model does; whoever needs what was left out (a compiled model, say) still gets it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Those of torch's initialisations that draw.
FILLS = ("normal_", "uniform_", "trunc_normal_", "xavier_normal_", "xavier_uniform_", "kaiming_normal_",
          "kaiming_uniform_", "orthogonal_")  # fmt: skip


class _Deferred(ModuleType):
    """A package of torch until somebody asks for more of it than stands here: then the real one takes its place."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_load(self), name)


class _DeferredCompiler(_Deferred):
    """torch's compiler.

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

    @property
    def config(self) -> ModuleType:
        """The settings, a module that needs nothing else; other modules of the compiler ask for it as they begin."""
        return importlib.import_module(f"{self.__name__}.config")

    def graph_break(self, *_: Any, **__: Any) -> None:
        """Do nothing: there is no graph."""


class _DeferredShapes(_Deferred):
    """torch's symbolic shapes, which bring SymPy.

    Every operation on a tensor without data asks them whether a condition holds, and transformers builds each model of
    such tensors. Without a compiler there are no symbols: the condition is plainly true or false.
    """

    def _decide(self, question: str, condition: Any, arguments: tuple[Any, ...]) -> Any:
        if isinstance(condition, bool):
            return condition
        return getattr(_load(self), question)(condition, *arguments)

    def expect_true(self, condition: Any, *arguments: Any) -> Any:
        """Return a condition that has to hold."""
        return self._decide("expect_true", condition, arguments)

    def guard_or_true(self, condition: Any, *arguments: Any) -> Any:
        """Return a condition, true where it cannot be known."""
        return self._decide("guard_or_true", condition, arguments)

    def guard_or_false(self, condition: Any, *arguments: Any) -> Any:
        """Return a condition, false where it cannot be known."""
        return self._decide("guard_or_false", condition, arguments)

    def guard_size_oblivious(self, condition: Any) -> Any:
        """Return a condition on sizes."""
        return self._decide("guard_size_oblivious", condition, ())

    def statically_known_true(self, condition: Any, *arguments: Any) -> Any:
        """Return whether a condition is known to be true."""
        return self._decide("statically_known_true", condition, arguments)

    def is_nested_int(self, size: Any) -> Any:
        """Return whether a number stands for the ragged size of a nested tensor."""
        return False if isinstance(size, int | float) else _load(self).is_nested_int(size)

    def sym_eq(self, one: Any, other: Any) -> Any:
        """Return whether two numbers, or two shapes, are equal."""
        if all(isinstance(size, int) for shape in (one, other) for size in _sizes(shape)):
            return _sizes(one) == _sizes(other)
        return _load(self).sym_eq(one, other)


def _sizes(shape: Any) -> tuple[Any, ...]:
    return tuple(shape) if isinstance(shape, tuple | list) else (shape,)


_DEFERRED: dict[str, type[_Deferred]] = {
    "torch._dynamo": _DeferredCompiler,
    "torch.fx.experimental.symbolic_shapes": _DeferredShapes,
}


# Modules that can be imported without their package, as transformers does with the second.
_ALONE = {"torch._dynamo.config", "torch._dynamo._trace_wrapped_higher_order_op"}


class _Loaded(Loader):
    """Gives a module that came with its package."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it has run."""


class _WholePackage(MetaPathFinder):
    """Lets the real package in before one of its modules is imported: they import each other in its order."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        package = sys.modules.get(fullname.rpartition(".")[0])
        if not isinstance(package, _Deferred) or fullname in _ALONE:
            return None
        _load(package)
        return ModuleSpec(fullname, _Loaded()) if fullname in sys.modules else None


def _load(deferred: ModuleType) -> ModuleType:
    """Return the real module in the place of one that was put off."""
    name = deferred.__name__
    if sys.modules.get(name) is deferred:
        del sys.modules[name]
        _put(name, importlib.import_module(name))
    return sys.modules[name]


def _put(name: str, module: ModuleType) -> None:
    """Make a module what an import by its name finds."""
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    setattr(importlib.import_module(parent), own, module)


def defer(name: str) -> None:
    """Put off the import of a package of torch until something of it is used that does not stand here.

    Args:
        name: Of :data:`_DEFERRED`.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    deferred = _DEFERRED[name](name)
    deferred.__spec__, deferred.__path__ = spec, list(spec.submodule_search_locations or []) if spec else []
    _put(name, deferred)


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


def leave_meta_tensors_unfilled() -> None:
    """Make torch's initialisations return a tensor that has no data as it is.

    transformers builds a model on the device ``meta`` before it reads the weights. Nothing is drawn there, yet
    ``normal_`` imports SymPy.
    """
    from torch.nn import init

    for name in FILLS:
        setattr(init, name, _unless_meta(getattr(init, name)))


def _unless_meta(fill: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fill)
    def filled(tensor: Any, *arguments: Any, **options: Any) -> Any:
        return tensor if tensor.is_meta else fill(tensor, *arguments, **options)

    return filled


sys.meta_path.insert(0, _WholePackage())
for _name in _DEFERRED:
    defer(_name)
leave_meta_tensors_unfilled()
leave_out_unused_packages()
