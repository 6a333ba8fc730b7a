"""Pre-training by a recipe: a tokenizer and a masked language model from text, with log-spaced checkpoints.

Every draw (order of the data, masked positions) depends on the seed and the step alone, so a training that was cut off
goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from essential_sparsity.checkpoints import held_weights, save_weights, without_tied
from essential_sparsity.digests import canonical
from essential_sparsity.errors import UserError
from essential_sparsity.files import atomic_path, sha256_of, write_json
from essential_sparsity.progress import progress
from essential_sparsity.trajectory import checkpoint_steps, step_name

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_IGNORED = -100
# Enough for a held-out loss, and little beside the training itself.
_HELD_OUT_SEQUENCES = 512


def train_tokenizer(texts: list[str], vocab_size: int, min_frequency: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece tokenizer (Devlin et al. 2019) with BERT's special tokens.

    The trainer numbers the pieces inside words (``##a``) in the order of a hash table that changes from run to run, and
    breaks ties between merges by these numbers. They are therefore given to it beforehand, in alphabetical order: the
    same texts give the same vocabulary.
    """
    draft = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    draft.normalizer = normalizers.BertNormalizer(lowercase=True)
    draft.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = (
        word for text in texts for word, _ in draft.pre_tokenizer.pre_tokenize_str(draft.normalizer.normalize_str(text))
    )
    inner = sorted({f"##{letter}" for word in words for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=[*SPECIAL_TOKENS, *inner],
        show_progress=False,
    )  # fmt: skip
    draft.train_from_iterator(texts, trainer)
    # A new tokenizer from that vocabulary, to which the inner pieces are pieces and not special tokens.
    vocabulary = dict(sorted(draft.get_vocab().items(), key=lambda item: item[1]))
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = draft.normalizer, draft.pre_tokenizer
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def pack_sequences(texts: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> Tensor:
    """Join the texts into one stream and cut it into ``[CLS] ... [SEP]`` sequences of equal length.

    Returns:
        Token ids, (sequences, length); the remainder is dropped.
    """
    stream = [i for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in ids]
    body = length - 2
    rows = len(stream) // body
    packed = torch.tensor(stream[: rows * body], dtype=torch.int64).reshape(rows, body)
    cls = torch.full((rows, 1), tokenizer.cls_token_id, dtype=torch.int64)
    sep = torch.full((rows, 1), tokenizer.sep_token_id, dtype=torch.int64)
    return torch.cat([cls, packed, sep], dim=1)


def mask_tokens(
    ids: Tensor, generator: torch.Generator, probability: float, mask_id: int, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Mask tokens for BERT's objective: of the chosen positions 80 % ``[MASK]``, 10 % random, 10 % unchanged.

    Args:
        ids: (batch, length); the first and last position, ``[CLS]`` and ``[SEP]``, are never chosen.
        generator: Source of the draws.
        probability: Chance that a position is chosen.
        mask_id: Id of ``[MASK]``.
        vocab_size: Random tokens are drawn above the special tokens.

    Returns:
        Inputs and labels, both (batch, length); labels are -100 where nothing is predicted.
    """
    draws = torch.rand(ids.shape, generator=generator)
    chosen = draws < probability
    chosen[:, 0] = chosen[:, -1] = False
    labels = ids.masked_fill(~chosen, _IGNORED)
    action = torch.rand(ids.shape, generator=generator)
    words = torch.randint(len(SPECIAL_TOKENS), vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (action < 0.8), mask_id, ids)
    return torch.where(chosen & (action >= 0.8) & (action < 0.9), words, inputs), labels


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then linear decay to zero."""
    ramp = max(1, round(warmup * steps))
    return (step + 1) / ramp if step < ramp else max(0.0, (steps - step) / max(1, steps - ramp))


def _batches(n: int, batch_size: int, seed: int, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the step and the rows of its batch, for the steps ``first`` to ``last - 1``."""
    per_epoch = max(1, n // batch_size)
    epoch, order = -1, torch.empty(0)
    for step in range(first, last):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        start = (step % per_epoch) * batch_size
        yield step, order[start : start + batch_size]


def masked_loss(model: BertForMaskedLM, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats) over the masked positions.

    The language-modelling head, most of a small model's cost, is computed on those positions only.
    """
    hidden = model.bert(input_ids=inputs).last_hidden_state  # (batch, length, hidden)
    chosen = labels != _IGNORED
    if not bool(chosen.any()):
        # A small batch in which no position was drawn: nothing to learn, a gradient of zero.
        nothing: Tensor = hidden.sum() * 0.0
        return nothing
    logits = model.cls(hidden[chosen])  # (masked, vocabulary)
    return torch.nn.functional.cross_entropy(logits, labels[chosen])


@torch.no_grad()
def held_out_loss(model: BertForMaskedLM, sequences: Tensor, recipe: Mapping[str, Any], mask_id: int) -> float:
    """Return the mean masked loss over held-out sequences, (sequences, length), with one fixed draw of masks."""
    model.eval()
    generator = torch.Generator().manual_seed(recipe["seed"])
    total, predictions = 0.0, 0
    device = next(model.parameters()).device
    for batch in sequences.split(64):
        # The vocabulary of the model, which may be smaller than the recipe's: a small corpus has fewer words.
        inputs, labels = mask_tokens(batch, generator, recipe["mask_probability"], mask_id, model.config.vocab_size)
        count = int((labels != _IGNORED).sum())
        total += count * float(masked_loss(model, inputs.to(device), labels.to(device)))
        predictions += count
    model.train()
    return total / predictions if predictions else math.nan


def pretrain(
    corpus: pd.DataFrame, recipe: Mapping[str, Any], folder: Path, device: torch.device, code: str, where: str
) -> None:
    """Train a BERT by a recipe, or go on with a training of the same recipe, corpus and code that was cut off.

    Writes into ``folder``: the tokenizer, ``config.json``, ``step000000.safetensors`` ... for each checkpoint,
    ``loss.parquet`` (``step, loss, held_out_loss, learning_rate``) and, last of all, ``index.json``, which lists the
    checkpoints with their SHA-256.

    Args:
        corpus: Columns ``text`` and ``split``; training sees only ``train``.
        recipe: The registry's recipe.
        folder: Where to write.
        device: Where to compute.
        code: Digest of the code: a training that other code began is not continued.
        where: The registry key, for messages.

    Raises:
        UserError: Too little text, or a loss that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = canonical([code, dict(recipe), int(pd.util.hash_pandas_object(corpus).sum())])
    train = corpus.loc[corpus["split"] == "train", "text"].tolist()
    held_out = corpus.loc[corpus["split"] == "test", "text"].tolist()
    length = recipe["sequence_length"]
    tokenizer = train_tokenizer(train, recipe["tokenizer"]["vocab_size"], recipe["tokenizer"]["min_frequency"], length)
    sequences = pack_sequences(train, tokenizer, length)
    if len(sequences) < recipe["batch_size"]:
        raise UserError(
            where=f"{where}.corpus",
            found=f"{len(sequences)} sequences of {length} tokens in the split 'train'",
            expected=f"at least one batch of {recipe['batch_size']}",
            mend="use a larger corpus, shorter sequences or a smaller batch",
        )
    check = pack_sequences(held_out, tokenizer, length)[:_HELD_OUT_SEQUENCES] if held_out else sequences[:0]
    logging.info("%d training and %d held-out sequences of %d tokens", len(sequences), len(check), length)
    tokenizer.save_pretrained(folder)

    torch.manual_seed(recipe["seed"])
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=length, hidden_dropout_prob=recipe["dropout"],
        attention_probs_dropout_prob=recipe["dropout"], pad_token_id=tokenizer.pad_token_id,
        architectures=["BertForMaskedLM"], **recipe["architecture"],
    )  # fmt: skip
    config.save_pretrained(folder)
    # Eager attention is about 15 % faster than SDPA at this width on a CPU.
    model = BertForMaskedLM._from_config(config, attn_implementation="eager").to(device).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe["learning_rate"], betas=(0.9, 0.999), fused=True,
    )  # fmt: skip

    steps = recipe["steps"]
    kept = checkpoint_steps(steps, recipe["checkpoints"], recipe["first_checkpoint"])
    first, history, files = _resume(folder, identity, model, optimiser, device)

    def keep(step: int) -> None:
        # Tied tensors are told by their shared memory, which a copy to the CPU would end.
        state = without_tied(model.state_dict(), model._tied_weights_keys)
        path = folder / f"{step_name(step)}.safetensors"
        save_weights(held_weights(state), path)
        files[step_name(step)] = {"file": path.name, "sha256": sha256_of(path)}
        loss = held_out_loss(model, check, recipe, tokenizer.mask_token_id) if len(check) else math.nan
        history.append({"step": step, "loss": math.nan, "held_out_loss": loss, "learning_rate": math.nan})
        logging.info("checkpoint %s: held-out loss %.4f", step_name(step), loss)
        resume = {
            "identity": identity, "step": step, "history": history, "files": files,
            "model": model.state_dict(), "optimiser": optimiser.state_dict(),
        }  # fmt: skip
        with atomic_path(_state_path(folder)) as temporary:
            torch.save(resume, temporary)

    if first == 0 and not history:
        keep(0)
    batches = _batches(len(sequences), recipe["batch_size"], recipe["seed"], first, steps)
    running: list[float] = []
    for step, rows in progress(batches, "pre-training", total=steps, unit="steps", start=first):
        generator = torch.Generator().manual_seed(recipe["seed"] * 1_000_033 + step)
        inputs, labels = mask_tokens(
            sequences[rows], generator, recipe["mask_probability"], tokenizer.mask_token_id, len(tokenizer)
        )
        torch.manual_seed(recipe["seed"] * 1_000_033 + step)  # of dropout
        factor = learning_rate_factor(step, steps, recipe["warmup"])
        for group in optimiser.param_groups:
            group["lr"] = recipe["learning_rate"] * factor
        loss = masked_loss(model, inputs.to(device), labels.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        running.append(_finite(float(loss.detach()), step, where))
        if (step + 1) % recipe["log_every"] == 0 or step + 1 in kept:
            history.append({
                "step": step + 1, "loss": sum(running) / len(running), "held_out_loss": math.nan,
                "learning_rate": recipe["learning_rate"] * factor,
            })  # fmt: skip
            running = []
        if step + 1 in kept:
            keep(step + 1)
    _finish(folder, files, history)


def _finite(loss: float, step: int, where: str) -> float:
    if not math.isfinite(loss):
        raise UserError(
            where=f"{where}, training step {step}",
            found=f"a loss of {loss}",
            expected="a finite loss",
            mend="lower `learning_rate` or raise `warmup`: the training diverged",
        )
    return loss


def _state_path(folder: Path) -> Path:
    return folder / "resume.pt"


def _resume(
    folder: Path, identity: str, model: BertForMaskedLM, optimiser: torch.optim.Optimizer, device: torch.device
) -> tuple[int, list[dict[str, float]], dict[str, dict[str, str]]]:
    """Load the last state if it belongs to this training and its files are whole.

    Returns:
        The step to go on from, the history of the loss, and the checkpoints that are written; zero and empty for a
        training that starts anew.
    """
    path = _state_path(folder)
    if path.is_file():
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError):
            state = {"identity": "unreadable", "files": {}}
        whole = all(
            (folder / f["file"]).is_file() and sha256_of(folder / f["file"]) == f["sha256"]
            for f in state["files"].values()
        )
        if state["identity"] == identity and whole:
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            logging.info("going on from step %d", state["step"])
            return int(state["step"]), list(state["history"]), dict(state["files"])
        logging.info("%s is damaged or of another recipe, corpus or code, or its checkpoints are: starting anew", path)
    for stale in folder.glob("step*.safetensors"):
        stale.unlink()
    return 0, [], {}


def _finish(folder: Path, files: dict[str, dict[str, str]], history: list[dict[str, float]]) -> None:
    """Write the loss curve and, last, the index; then drop the state, so that a finished training is not continued."""
    frame = pd.DataFrame(history).groupby("step", as_index=False).max()
    with atomic_path(folder / "loss.parquet") as temporary:
        frame.to_parquet(temporary, index=False)
    companions = sorted(p.name for p in folder.glob("*.json") if p.name != "index.json")
    write_json(folder / "index.json", {"steps": files, "files": companions})
    _state_path(folder).unlink(missing_ok=True)
