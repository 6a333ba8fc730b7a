"""A quick start leaves out what no job uses, and gives it to whoever asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = [
    "datasets",
    "scipy",
    "sklearn",
    "sympy",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
]

TRAINING = """
import sys
sys.path.insert(0, "workflow/scripts")
from essential_sparsity.finetune import evaluate_finetuned
from essential_sparsity.evaluation import evaluate_to_files
import torch
from transformers import AutoModelForSequenceClassification, BertConfig
config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
model = AutoModelForSequenceClassification.from_config(config)
optimiser = torch.optim.AdamW(model.parameters(), fused=True)
model(input_ids=torch.ones(1, 3, dtype=torch.long), labels=torch.ones(1, dtype=torch.long)).loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimiser.step()
optimiser.zero_grad()
print(*[name for name in sys.argv[1:] if name in sys.modules])
"""

COMPILING = """
import sys
sys.path.insert(0, "workflow/scripts")
import essential_sparsity.quick_start
import torch
from torch.utils.checkpoint import checkpoint
assert torch._dynamo.config.cache_size_limit > 0, "the real one is there when it is asked for"
assert "torch._dynamo.utils" in sys.modules and torch._dynamo is sys.modules["torch._dynamo"]
doubled = torch.compile(lambda x: 2 * x, backend="eager")
assert doubled(torch.ones(2)).tolist() == [2.0, 2.0]
print("compiled")
"""


def run(root: Path, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_training_imports_none_of_what_it_does_not_use(root: Path) -> None:
    assert run(root, TRAINING, *HEAVY) == ""


def test_the_compiler_is_there_when_it_is_asked_for(root: Path) -> None:
    assert run(root, COMPILING) == "compiled"
