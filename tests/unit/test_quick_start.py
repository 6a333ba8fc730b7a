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
from essential_sparsity.loading import load_model
import tempfile
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig
config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
with tempfile.TemporaryDirectory() as folder:
    config.save_pretrained(folder)
    save_file(AutoModel.from_config(config).state_dict(), Path(folder) / "model.safetensors", {"format": "pt"})
    # The head is new: what is missing in the checkpoint takes other ways through transformers.
    model = load_model(AutoModelForSequenceClassification, Path(folder), "test")
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
assert torch._dynamo.config.cache_size_limit > 0
torch._dynamo.reset()
assert "torch._dynamo.utils" in sys.modules and torch._dynamo is sys.modules["torch._dynamo"]
doubled = torch.compile(lambda x: 2 * x, backend="eager", dynamic=True)
assert doubled(torch.ones(2)).tolist() == [2.0, 2.0]
assert doubled(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
print("compiled")
"""

# What stands for symbolic shapes says what they say, of what has no symbols and of what has some.
SHAPES = """
import sys
sys.path.insert(0, "workflow/scripts")
import torch
from essential_sparsity import quick_start
name = "torch.fx.experimental.symbolic_shapes"
deferred = sys.modules[name]
sizes = [1, 0, (2, 3), torch.Size([2, 3]), (2,), [2, 3]]
pairs = [(one, other) for one in sizes for other in sizes if isinstance(one, int) == isinstance(other, int)]
QUESTIONS = ("expect_true", "guard_or_true", "guard_or_false", "guard_size_oblivious", "statically_known_true")
def answers(module):
    said = [getattr(module, question)(held) for question in QUESTIONS for held in (True, False)]
    return [*said, *[module.sym_eq(*pair) for pair in pairs], module.is_nested_int(3)]
ours = answers(deferred)
assert "sympy" not in sys.modules
from torch.fx.experimental.symbolic_shapes import ShapeEnv
assert "sympy" in sys.modules and sys.modules[name] is not deferred
assert ours == answers(sys.modules[name]), ours
unknown = ShapeEnv().create_unbacked_symint()
assert isinstance(deferred.sym_eq(unknown, 4), torch.SymBool) and not deferred.is_nested_int(unknown)
assert deferred.guard_or_true(unknown == 4) is True and deferred.guard_or_false(unknown == 4) is False
print("agreed")
"""

FILLING = """
import sys
sys.path.insert(0, "workflow/scripts")
import torch
from torch.nn import init
shape = (4, 6)
def drawn(name):
    torch.manual_seed(3)
    return getattr(init, name)(torch.zeros(shape))
names = sys.argv[1:]
before = {name: drawn(name) for name in names}
from essential_sparsity import quick_start
assert names == list(quick_start.FILLS)
state = torch.get_rng_state()
for name in names:
    empty = torch.empty(shape, device="meta")
    assert getattr(init, name)(empty) is empty
assert torch.equal(state, torch.get_rng_state()) and "sympy" not in sys.modules
assert all(torch.equal(before[name], drawn(name)) and before[name].any() for name in names)
print("filled")
"""
FILLS = [
    "normal_", "uniform_", "trunc_normal_", "xavier_normal_", "xavier_uniform_", "kaiming_normal_",
    "kaiming_uniform_", "orthogonal_",
]  # fmt: skip


def run(root: Path, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_training_imports_none_of_what_it_does_not_use(root: Path) -> None:
    assert run(root, TRAINING, *HEAVY) == ""


def test_the_compiler_is_there_when_it_is_asked_for(root: Path) -> None:
    assert run(root, COMPILING) == "compiled"


def test_plain_conditions_are_decided_as_symbolic_shapes_decide_them(root: Path) -> None:
    assert run(root, SHAPES) == "agreed"


def test_only_tensors_without_data_stay_as_they_are(root: Path) -> None:
    assert run(root, FILLING, *FILLS) == "filled"
