"""Statistics of the inputs of every linear layer, gathered block by block on the model's own forward.

Each batch runs through the model's own code in a coroutine that stops before every transformer block; what the block
was called with stays where the model put it. So a block is only ever called with the arguments that the model itself
made, and only one block's weights are in memory: they are read from the checkpoint when the batches reach it and
dropped when they leave it.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from essential_sparsity.checkpoints.layers import block_of, block_prefixes, missing_weights
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.placement import part_of
from essential_sparsity.checkpoints.precision import mixed_precision
from essential_sparsity.checkpoints.tensors import WeightFiles
from essential_sparsity.errors import UserError
from essential_sparsity.methods.statistics import InputStatistics
from essential_sparsity.progress import progress
from essential_sparsity.pruning.observer import BlockObserver
from essential_sparsity.run.devices import return_freed_memory

# The smallest activation that is worth a file, in bytes.
_WORTH_A_FILE = 1 << 16
# Batches after which freed memory is given back.
_TRIM_EVERY = 8


class ParameterLoader:
    """Fills parameters of a model on the ``meta`` device from a checkpoint, and empties them again.

    Args:
        model: Its parameters are on ``meta``; its buffers are real.
        files: The checkpoint.
        matrices: The manifest: where in the model each tensor lies.
        device: Where parameters go.
    """

    def __init__(self, model: nn.Module, files: WeightFiles, matrices: Sequence[Matrix], device: torch.device) -> None:
        self._files = files
        self._device = device
        self._empty = {id(p): name for name, p in model.named_parameters()}
        named = dict(model.named_parameters(remove_duplicate=False))
        self._stored: dict[int, list[Matrix]] = defaultdict(list)
        for m in matrices:
            if m.parameter in named:
                self._stored[id(named[m.parameter])].append(m)
        self._filled: dict[nn.Module, dict[str, nn.Parameter]] = {}
        # What is read now, by the parameter that it stands for: tied weights are read once.
        self._read_now: WeakValueDictionary[int, nn.Parameter] = WeakValueDictionary()

    def fill(self, module: nn.Module, recurse: bool) -> None:
        """Read the parameters of a module, and of those below it if ``recurse``."""
        for part in module.modules() if recurse else [module]:
            for name, parameter in part._parameters.items():
                if parameter is not None and id(parameter) in self._empty:
                    self._filled.setdefault(part, {})[name] = parameter
                    held = self._read_now.get(id(parameter))
                    if held is None:
                        held = nn.Parameter(self._read(parameter), requires_grad=False)
                        self._read_now[id(parameter)] = held
                    part._parameters[name] = held

    def _read(self, empty: nn.Parameter) -> Tensor:
        rows = self._stored[id(empty)]
        if not rows:
            raise missing_weights("calibration", [self._empty[id(empty)]])
        if not rows[0].part:
            return self._files.read(rows[0].name).to(self._device)
        fused = torch.empty(empty.shape, dtype=self._files.tensors[rows[0].name].dtype)
        for m in rows:
            part_of(fused, m.part, m.shape).copy_(self._files.read(m.name))
        return fused.to(self._device)

    def empty(self, modules: Iterator[nn.Module] | Sequence[nn.Module]) -> None:
        """Drop what :meth:`fill` has read for these modules."""
        for module in modules:
            for name, parameter in self._filled.pop(module, {}).items():
                module._parameters[name] = parameter

    def filled(self) -> list[nn.Module]:
        """Return the modules that hold parameters now."""
        return list(self._filled)


@dataclass(eq=False)
class _Batch:
    """A batch on its way through the model: stopped before a block, with what the block is called with."""

    number: int
    ids: Tensor
    runner: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    block: int | None = None
    files: list[tuple[Tensor, Path]] = field(default_factory=list)


@dataclass
class Visit:
    """A block that all batches have reached.

    Attributes:
        index: Its number in the model's order.
        name: Its name in the model.
        module: The block, with its weights.
        calls: For each batch, what the model calls the block with, and how many sequences it holds.
        activations: Brings a batch's activations into memory, one batch after the other.
    """

    index: int
    name: str
    module: nn.Module
    calls: list[tuple[tuple[Any, ...], dict[str, Any], int]]
    activations: Callable[[int], None]
    # Entered around a batch's own run through the block: how dense statistics are gathered.
    during: Callable[[int], AbstractContextManager[None]] = lambda samples: nullcontext()
    # Entered around all calls of the block: the precision of its matrix products.
    computing: Callable[[], AbstractContextManager[None]] = nullcontext

    @torch.no_grad()
    def replay(self, observe: Callable[[int], AbstractContextManager[None]]) -> None:
        """Call the block once more for every batch, with the arguments of the model's own call; drop the results.

        Args:
            observe: Entered around every call, with the number of sequences.
        """
        with self.computing():
            for number, (args, kwargs, samples) in enumerate(self.calls):
                self.activations(number)
                with observe(samples):
                    self.module(*args, **kwargs)


class BlockStream:
    """A model's own forward over batches, stopped before every block.

    Args:
        model: Its parameters are on ``meta``.
        loader: Fills them.
        batches: Token ids, (sequences, tokens) each.
        folder: Where activations wait on disk; None keeps them in memory.
        precision: Of matrix products: ``float32``, or ``bfloat16`` in a model whose weights are float32.
    """

    def __init__(
        self, model: nn.Module, loader: ParameterLoader, batches: Sequence[Tensor], folder: Path | None, precision: str
    ) -> None:
        self._model = model
        self._loader = loader
        self._batches = [_Batch(number, ids) for number, ids in enumerate(batches)]
        self._folder = folder
        self._precision = precision
        self._prefixes = block_prefixes(model)
        self._buffers = {id(buffer) for buffer in model.buffers()}
        self._main = getcurrent()
        self._last: dict[Any, int] = {}

    @torch.no_grad()
    def visits(self) -> Iterator[Visit]:
        """Yield every block when all batches have reached it; when resumed, the batches run through it.

        What the caller changes of the block's weights before it resumes is what the batches then run through.
        """
        modules = dict(self._model.named_modules())
        blocks = {modules[prefix]: number for number, prefix in enumerate(self._prefixes)}
        hooks = [self._watch_block(module, number) for module, number in blocks.items()]
        inside = {part for block in blocks for part in block.modules()}
        outside = [m for m in modules.values() if m not in inside and m._parameters]
        hooks += [self._watch_outside(m) for m in outside]
        for module in outside:
            # Some models ask where the embedding's weights are before they call it, and send the tokens there.
            if isinstance(module, nn.Embedding):
                self._loader.fill(module, recurse=False)
        try:
            for batch in self._batches:
                batch.runner = greenlet(self._run)
                self._advance(batch, batch.ids)
            while self._batches and self._batches[0].block is not None:
                self._loader.empty(self._loader.filled())
                number = self._batches[0].block
                if any(batch.block != number for batch in self._batches):
                    raise RuntimeError("batches have reached different blocks of the model")
                block = modules[self._prefixes[number]]
                self._loader.fill(block, recurse=True)
                calls = [(batch.args, batch.kwargs, len(batch.ids)) for batch in self._batches]
                computing = partial(self._computing, block)
                visit = Visit(number, self._prefixes[number], block, calls, self._bring_back, computing=computing)
                yield visit
                # What a block was called with goes as soon as the batch has left it.
                calls.clear()
                with computing():
                    for index, batch in enumerate(self._batches):
                        if index % _TRIM_EVERY == 0:
                            # Activations are freed and made anew in pieces that fit each other ill.
                            return_freed_memory()
                        self._bring_back(index)
                        with visit.during(len(batch.ids)):
                            self._advance(batch)
        finally:
            for batch in self._batches:
                if batch.runner:
                    batch.runner.throw(GreenletExit)
            for hook in hooks:
                hook.remove()
            self._loader.empty(self._loader.filled())

    def _computing(self, block: nn.Module) -> AbstractContextManager[None]:
        if self._precision != "bfloat16":
            return nullcontext()
        return mixed_precision(self._batches[0].ids.device, block.parameters())

    def _run(self, ids: Tensor) -> None:
        self._model(**forward_arguments(self._model, ids))

    def _advance(self, batch: _Batch, *start: Tensor) -> None:
        """Let a batch run to the next block, or to the end of the blocks."""
        for _, path in batch.files:
            # Never overwritten: what the model still holds of it may be mapped.
            path.unlink()
        batch.args, batch.kwargs, batch.block, batch.files = (), {}, None, []
        # The runner's frames alone hold the activations then, so that they go as soon as the model lets go of them.
        reached = batch.runner.switch(*start)
        if isinstance(reached, tuple):
            batch.block, batch.args, batch.kwargs = reached
            self._put_away(batch)

    def _watch_block(self, module: nn.Module, number: int) -> Any:
        def stop(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if getcurrent() is not self._main:
                _check_real(called, (*args, *kwargs.values()))
                self._last[getcurrent()] = number
                self._main.switch((number, args, kwargs))

        return module.register_forward_pre_hook(stop, with_kwargs=True)

    def _watch_outside(self, module: nn.Module) -> Any:
        def load(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            _check_real(called, (*args, *kwargs.values()))
            if self._last.get(getcurrent()) == len(self._prefixes) - 1:
                # Norms and heads behind the last block are of no interest, and a head's output may be huge.
                raise GreenletExit
            self._loader.fill(called, recurse=False)

        return module.register_forward_pre_hook(load, with_kwargs=True)

    def _put_away(self, batch: _Batch) -> None:
        """Write a batch's activations to disk, once a block, and empty the tensors that the model's frames hold."""
        if self._folder is None:
            return
        for value in () if batch.files else (*batch.args, *batch.kwargs.values()):
            # A parameter or buffer of the model (DeBERTa's relative positions) is no activation: all batches share it.
            own = isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and id(value) not in self._buffers
            large = own and value.numel() * value.element_size() >= _WORTH_A_FILE
            if large and value.is_floating_point() and all(value is not tensor for tensor, _ in batch.files):
                path = self._folder / f"{batch.block}-{batch.number}-{len(batch.files)}.safetensors"
                save_file({"activation": value.contiguous().cpu()}, path)
                batch.files.append((value, path))
        for tensor, _ in batch.files:
            # It stays the same object, so whoever holds it sees it filled again.
            tensor.data = tensor.new_empty(0)

    def _bring_back(self, number: int) -> None:
        """Read a batch's activations, and put away those of all others."""
        for other in self._batches:
            if other.number != number and other.args:
                self._put_away(other)
        for tensor, path in self._batches[number].files:
            tensor.data = load_file(path)["activation"].to(tensor.device)


def _check_real(module: nn.Module, values: Sequence[Any]) -> None:
    """Check that what a module is called with has values: torch computes on tensors without any, and says nothing.

    Raises:
        UserError: The model has sent something to where its empty weights are.
    """
    if any(isinstance(value, Tensor) and value.is_meta for value in values):
        raise UserError(
            where=f"calibration, module {type(module).__name__}",
            found="inputs without values: the model asks for weights that are not in memory yet",
            expected="a model whose modules read their own weights, when they are called",
            mend="use a score without calibration for this model",
        )


def forward_arguments(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    """Return what the model's forward is called with; a decoder beside an encoder reads the same text."""
    config = getattr(model, "config", None)
    arguments: dict[str, Any] = {"input_ids": ids}
    if getattr(config, "is_encoder_decoder", False):
        arguments["decoder_input_ids"] = ids
    return arguments


def streamed_model(checkpoint: Path) -> nn.Module:
    """Build a checkpoint's model with real buffers and parameters on ``meta``; experts run one by one."""
    from accelerate import init_empty_weights

    from essential_sparsity.checkpoints.extract import architecture_class, read_config

    model_class, config = architecture_class(checkpoint), read_config(checkpoint)
    config.use_cache = False
    # The fused implementations hand no expert's inputs to a linear map.
    config._experts_implementation = "eager"
    with init_empty_weights(include_buffers=False):
        model = model_class(config)
    # Building on meta gives every name a parameter of its own.
    model.tie_weights()
    found: nn.Module = model.eval()
    return found


@contextmanager
def activation_folder(activations: str, beside: Path) -> Iterator[Path | None]:
    """Yield a folder for activations that wait on disk, removed at the end; None for those that stay in memory."""
    if activations != "disk":
        yield None
        return
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".activations-") as folder:
        yield Path(folder)


def fill_buffers(model: nn.Module, files: WeightFiles, matrices: Sequence[Matrix]) -> None:
    """Read the buffers that a checkpoint stores, such as what corrects a router: they are small, and stay."""
    buffers = dict(model.named_buffers())
    for m in matrices:
        if m.parameter in buffers:
            buffers[m.parameter].copy_(files.read(m.name))


def move_buffers(model: nn.Module, device: torch.device) -> None:
    """Move a model's buffers, and nothing else, to a device."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def visit_blocks(
    model: nn.Module, files: WeightFiles, matrices: Sequence[Matrix], batches: Sequence[Tensor],
    device: torch.device, folder: Path | None, with_gram: bool, precision: str = "float32",
) -> Iterator[tuple[Visit, BlockObserver]]:  # fmt: skip
    """Yield every block that holds prunable matrices, with an observer of their inputs; all batches have reached it.

    Args:
        model: From :func:`streamed_model`.
        files: The checkpoint.
        matrices: Its whole manifest.
        batches: Token ids, (sequences, tokens) each.
        device: Where the model runs.
        folder: Where activations wait; None keeps them in memory.
        with_gram: Whether the sums of products are needed.
        precision: Of the blocks' matrix products, ``float32`` or ``bfloat16``.
    """
    loader = ParameterLoader(model, files, matrices, device)
    fill_buffers(model, files, matrices)
    move_buffers(model, device)
    prefixes = block_prefixes(model)
    by_block: dict[int, list[Matrix]] = defaultdict(list)
    for m in matrices:
        if m.pruned:
            by_block[block_of(m.parameter, prefixes)].append(m)
    stream = BlockStream(model, loader, [ids.to(device) for ids in batches], folder, precision)
    for visit in progress(stream.visits(), "calibration", total=len(prefixes), unit="blocks"):
        yield visit, BlockObserver(visit.module, by_block[visit.index], visit.name, with_gram)


def dense_statistics(
    model: nn.Module, files: WeightFiles, matrices: Sequence[Matrix], batches: Sequence[Tensor],
    device: torch.device, folder: Path | None, with_gram: bool, precision: str = "float32",
) -> Iterator[dict[str, InputStatistics]]:  # fmt: skip
    """Yield, block by block, statistics of the inputs in the dense model, from one run of its forward.

    Arguments are those of :func:`visit_blocks`. A block that the model runs through several times running has the
    inputs of all of them.

    Raises:
        UserError: The model comes back to a block after others.
    """
    pending: tuple[int, BlockObserver] | None = None
    done: set[str] = set()
    for visit, observer in visit_blocks(model, files, matrices, batches, device, folder, with_gram, precision):
        if pending is not None and pending[0] == visit.index:
            observer.take_over(pending[1])
        elif pending is not None:
            done |= pending[1].statistics.keys()
            yield pending[1].statistics
        again = sorted(done & observer.names)
        if again:
            raise UserError(
                where=f"matrix {again[0]}",
                found="a block that the model comes back to after others",
                expected="blocks that it runs through once, or several times running",
                mend="exclude the block's matrices (`exclude` of the model), or use a score without calibration",
            )
        visit.during = observer.observing
        pending = (visit.index, observer)
    if pending is not None:
        yield pending[1].statistics
