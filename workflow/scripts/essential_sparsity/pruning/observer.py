"""What is gathered of the inputs of a block's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from essential_sparsity.checkpoints.layers import LINEAR_TYPES, is_fused_experts
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.methods.statistics import InputStatistics


class _LastLayerReachedError(Exception):
    """The last layer that is observed has been reached: what follows in the block would be thrown away."""


class BlockObserver:
    """Gathers statistics of the inputs of a block's prunable layers; layers with the same input share them.

    Args:
        block: The block, with its weights.
        matrices: The manifest's prunable rows of the block.
        prefix: The block's name in the model.
        with_gram: Whether the sums of products are needed.
    """

    def __init__(self, block: nn.Module, matrices: Sequence[Matrix], prefix: str, with_gram: bool) -> None:
        self.statistics: dict[str, InputStatistics] = {}
        self.names = {m.name for m in matrices}
        self._with_gram = with_gram
        self._modules: dict[str, tuple[nn.Module, list[str]]] = {}
        self._experts: dict[tuple[int, int], list[str]] = {}
        owners = dict(block.named_modules())
        for m in matrices:
            path = m.parameter.removeprefix(f"{prefix}.").rpartition(".")[0]
            owner = owners[path]
            if isinstance(owner, LINEAR_TYPES):
                self._modules.setdefault(path, (owner, []))[1].append(m.name)
            elif m.part and is_fused_experts(owner, parameter := owner.get_parameter(m.parameter.rpartition(".")[2])):
                expert = parameter[m.part[0][0]]
                place = (expert.untyped_storage().data_ptr(), int(expert.storage_offset()))
                self._experts.setdefault(place, []).append(m.name)
        self._samples = 0
        self._seen: list[tuple[Tensor, str]] = []
        self._reached: list[str] = []

    def take_over(self, earlier: BlockObserver) -> None:
        """Go on where an earlier observer of the same block has stopped."""
        self.statistics, self._samples = earlier.statistics, earlier._samples

    @contextmanager
    def observing(self, samples: int) -> Iterator[None]:
        """Gather while the block runs on so many sequences."""
        with self._hooked(samples, stop_after=None):
            yield

    @contextmanager
    def replaying(self, samples: int) -> Iterator[None]:
        """As :meth:`observing`, ending the run at the last observed layer, once it is known which one that is."""
        # Where some layers are experts, another call may reach others; those that are no modules run unseen.
        known = not self._experts and self._all_reached()
        try:
            with self._hooked(samples, stop_after=len(self._reached) if known else None):
                yield
        except _LastLayerReachedError:
            pass

    def _all_reached(self) -> bool:
        return set(self._reached) == self._modules.keys()

    @contextmanager
    def _hooked(self, samples: int, stop_after: int | None) -> Iterator[None]:
        self._samples += samples
        self._seen, self._reached = [], []
        hooks = [self._watch(path, module, stop_after) for path, (module, _) in self._modules.items()]
        mode: Any = _ExpertMode(self._add_expert) if self._experts else nullcontext()
        try:
            with mode:
                yield
        finally:
            self._seen = []
            for found in self.statistics.values():
                # All sequences count, also those of which an expert was given nothing.
                found.samples = self._samples
            for hook in hooks:
                hook.remove()

    def _watch(self, path: str, module: nn.Module, stop_after: int | None) -> Any:
        def observe(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._add(self._modules[path][1], args[0])
            self._reached.append(path)
            if len(self._reached) == stop_after and self._all_reached():
                raise _LastLayerReachedError

        return module.register_forward_pre_hook(observe)

    def _add(self, names: list[str], x: Tensor) -> None:
        if not x.numel():
            # An expert that is called with no token has not been reached.
            return
        # The same tensor, not an equal one: query, key and value are given one object.
        leader = next((name for seen, name in self._seen if seen is x), None)
        if leader is not None:
            shared = self.statistics[leader]
            if all(self.statistics.get(name, shared) is shared for name in names):
                self.statistics.update(dict.fromkeys(names, shared))
                return
        first = names[0]
        if first not in self.statistics:
            self.statistics[first] = InputStatistics.empty(x.shape[-1], self._with_gram, x)
        self.statistics[first].add(x, 0)
        for name in names[1:]:
            self.statistics[name] = self.statistics[first]
        self._seen.append((x, first))

    def _add_expert(self, x: Tensor, weight: Tensor) -> None:
        names = self._experts.get((weight.untyped_storage().data_ptr(), int(weight.storage_offset())))
        if names:
            self._add(names, x)


class _ExpertMode(TorchFunctionMode):
    """Sees the linear maps of experts, which are no modules of their own."""

    def __init__(self, add: Callable[[Tensor, Tensor], None]) -> None:
        self._add = add
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.linear and isinstance(args[1], Tensor):
            self._add(args[0], args[1])
        return func(*args, **(kwargs or {}))
