"""A study names every mistake with its file, its key and the mend, and plans each evaluation once."""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from essential_sparsity.data.kinds import Dataset
from essential_sparsity.data.tasks import AnyTask, Finetuning, Perplexity
from essential_sparsity.errors import UserError
from essential_sparsity.knees.placing import Placing
from essential_sparsity.methods.levels import sparsity_name
from essential_sparsity.methods.statistics import Calibration
from essential_sparsity.pretraining.recipe import MaskedTextRecipe, Vocabulary
from essential_sparsity.records import plain, record
from essential_sparsity.sources.kinds import Hub
from essential_sparsity.study.asked import Evaluation
from essential_sparsity.study.checks import check_batches
from essential_sparsity.study.registries import DENSE
from essential_sparsity.study.resolve import resolve
from essential_sparsity.study.study import Study
from essential_sparsity.study.validation import load_yaml

REPOSITORY = Path(__file__).resolve().parents[3]
FILE = "studies/mine.yaml"

# Ends of keys: ("curves", 0, "models") is curves[0].models.
Keys = tuple[str | int, ...]


def config() -> dict[str, Any]:
    """Return a study with models, datasets, methods and tasks of its own, and no local file."""
    wheel = {"kind": "wheel", "package": "texts", "version": "1.0", "sha256": "0" * 64, "member": "t.csv"}
    return {
        "study": "mine",
        "curves": [
            {
                "models": ["own-bert"],
                "checkpoints": ["last"],
                "methods": ["own-magnitude", "own-random"],
                "sparsities": [0.3, 0.5],
                "tasks": ["own-class", "own-text"],
                "seeds": [0, 1],
            }
        ],
        "weights": [{"models": ["own-bert"]}],
        "knees": {"tolerance": 0.01},
        "registries": {
            "models": {
                "own-bert": {
                    "licence": "MIT",
                    "source": {
                        "kind": "pretrain",
                        "recipe": {
                            "corpus": "own-texts",
                            "architecture": {
                                "hidden_size": 16,
                                "num_hidden_layers": 2,
                                "num_attention_heads": 2,
                                "intermediate_size": 32,
                            },
                            "steps": 100,
                            "checkpoints": 4,
                            "first_checkpoint": 10,
                        },
                    },
                },
                "own-wheel": {"licence": "MIT", "source": {**wheel, "member": "m.gguf"}},
            },
            "datasets": {
                "own-texts": {
                    "licence": "MIT",
                    "source": wheel,
                    "format": "csv",
                    "text": "text",
                    "label": "kind",
                    "split": {"group": "film", "test_fraction": 0.2},
                },
                "own-plain": {"licence": "MIT", "source": wheel, "format": "csv", "text": "text"},
            },
            "methods": {
                "own-magnitude": {"label": "magnitude", "score": "magnitude", "scope": "global"},
                "own-random": {"label": "random", "score": "random", "scope": "layer"},
            },
            "tasks": {
                "own-class": {"label": "classes", "protocol": "finetune", "dataset": "own-texts"},
                "own-text": {"label": "texts", "protocol": "perplexity", "dataset": "own-plain"},
            },
        },
    }


def at(tree: Any, keys: Keys) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def changed(keys: Keys, value: Any) -> dict[str, Any]:
    """Return the study with one value replaced or added."""
    result = config()
    at(result, keys[:-1])[keys[-1]] = value
    return result


def build(content: dict[str, Any] | None = None) -> Study:
    return resolve(content if content is not None else config(), REPOSITORY, FILE)


def fault(content: dict[str, Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        build(content)
    return caught.value


RECIPE: Keys = ("registries", "models", "own-bert", "source", "recipe")
DATASET: Keys = ("registries", "datasets", "own-texts")

TYPOS: list[tuple[Keys, str]] = [
    (("study",), "studdy"),
    (("curves",), "curve"),
    (("knees",), "knee"),
    (("weights",), "weight"),
    (("curves", 0, "models"), "model"),
    (("curves", 0, "methods"), "method"),
    (("curves", 0, "sparsities"), "sparsitys"),
    (("curves", 0, "tasks"), "task"),
    (("curves", 0, "seeds"), "seed"),
    (("curves", 0, "checkpoints"), "checkpoint"),
    (("weights", 0, "models"), "modles"),
    (("knees", "tolerance"), "tolerence"),
    (("registries", "methods"), "method"),
    (("registries", "models", "own-bert", "licence"), "license"),
    (("registries", "models", "own-bert", "source"), "sorce"),
    (("registries", "models", "own-bert", "source", "kind"), "knd"),
    (("registries", "models", "own-bert", "source", "recipe"), "receipe"),
    (("registries", "models", "own-wheel", "source", "sha256"), "sha"),
    (("registries", "models", "own-wheel", "source", "member"), "members"),
    ((*RECIPE, "steps"), "step"),
    ((*RECIPE, "corpus"), "corpsu"),
    ((*RECIPE, "architecture"), "architectur"),
    ((*RECIPE, "architecture", "hidden_size"), "hiden_size"),
    ((*DATASET, "format"), "formt"),
    ((*DATASET, "split"), "splits"),
    ((*DATASET, "split", "group"), "groups"),
    ((*DATASET, "split", "test_fraction"), "test_faction"),
    (("registries", "methods", "own-random", "score"), "scores"),
    (("registries", "methods", "own-random", "scope"), "scop"),
    (("registries", "tasks", "own-class", "dataset"), "datset"),
    (("registries", "tasks", "own-class", "protocol"), "protocoll"),
    (("registries", "tasks", "own-text", "label"), "lable"),
]


@pytest.mark.parametrize(("keys", "typo"), TYPOS, ids=[".".join(map(str, k)) for k, _ in TYPOS])
def test_a_misspelt_key_is_answered_with_the_right_one(keys: Keys, typo: str) -> None:
    content = config()
    parent = at(content, keys[:-1])
    parent[typo] = parent.pop(keys[-1])
    error = fault(content)
    assert error.where.startswith(FILE)
    assert typo in f"{error.where} {error.mend}", "the message shows what was written"
    assert f"write '{keys[-1]}' instead of '{typo}'" == error.mend
    for part in keys[:-1]:
        assert str(part) in error.where, "the message says where"


ADDED: list[tuple[Keys, str, str]] = [
    ((), "titel", "title"),
    (("knees",), "sensitivty", "sensitivity"),
    ((*RECIPE,), "learning_rat", "learning_rate"),
    ((*RECIPE,), "sequence_len", "sequence_length"),
    (("registries", "models", "own-bert"), "dtpye", "dtype"),
    (("registries", "tasks", "own-class"), "learning_rte", "learning_rate"),
    (("registries", "tasks", "own-text"), "windws", "windows"),
    (("registries", "methods", "own-random"), "patern", "pattern"),
    ((*DATASET,), "balanced", "balance"),
]


@pytest.mark.parametrize(("keys", "typo", "right"), ADDED, ids=[typo for _, typo, _ in ADDED])
def test_a_misspelt_optional_key_is_not_ignored(keys: Keys, typo: str, right: str) -> None:
    error = fault(changed((*keys, typo), 1))
    assert error.found == f"the unknown key '{typo}'"
    assert typo in error.where
    assert error.mend == f"write '{right}' instead of '{typo}'"


def test_a_typo_in_a_shared_registry_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "schemas").symlink_to(REPOSITORY / "workflow" / "schemas")
    for kind in ("models", "datasets", "methods", "tasks"):
        (tmp_path / "config" / f"{kind}.yaml").write_text("{}\n")
    (tmp_path / "config" / "methods.yaml").write_text("m: {label: m, scroe: magnitude, scope: global}\n")
    with pytest.raises(UserError, match=r"config/methods\.yaml, key m\.scroe.*write 'score' instead of 'scroe'"):
        resolve(config(), tmp_path, FILE)
    (tmp_path / "config" / "methods.yaml").write_text("m: [label\n")
    with pytest.raises(UserError, match=r"methods\.yaml: found text that is not YAML .*line"):
        resolve(config(), tmp_path, FILE)
    (tmp_path / "config" / "methods.yaml").unlink()
    with pytest.raises(UserError, match=r"methods\.yaml: found no such file"):
        resolve(config(), tmp_path, FILE)


NAMES: list[tuple[Keys, str, str, str]] = [
    (("curves", 0, "models", 0), "own-bret", "model", "own-bert"),
    (("curves", 0, "methods", 1), "own-randon", "method", "own-random"),
    (("curves", 0, "tasks", 0), "own-clas", "task", "own-class"),
    (("weights", 0, "models", 0), "own-brt", "model", "own-bert"),
    (("curves", 0, "checkpoints", 0), "step00032", "checkpoint", "step000032"),
    (("registries", "tasks", "own-text", "dataset"), "own-plan", "dataset", "own-plain"),
    ((*RECIPE, "corpus"), "own-text", "dataset", "own-texts"),
]


@pytest.mark.parametrize(("keys", "wrong", "kind", "right"), NAMES, ids=[n[1] for n in NAMES])
def test_an_unknown_name_is_answered_with_the_nearest(keys: Keys, wrong: str, kind: str, right: str) -> None:
    error = fault(changed(keys, wrong))
    assert error.where.startswith(FILE)
    assert kind in error.found
    assert f"'{wrong}'" in error.found
    assert f"'{right}'" in error.expected
    assert error.mend == f"write '{right}' instead of '{wrong}'"


@pytest.mark.parametrize(
    ("keys", "wrong", "right"),
    [
        (("knees", "rules"), ["tolerance", "kneedl"], "kneedle"),
        (("registries", "methods", "own-random", "score"), "randm", "random"),
        (("registries", "methods", "own-random", "scope"), "layers", "layer"),
        (("registries", "tasks", "own-class", "protocol"), "finetun", "finetune"),
        (("registries", "models", "own-wheel", "source", "kind"), "weel", "wheel"),
        (("registries", "models", "own-wheel", "dtype"), "float23", "float32"),
        ((*DATASET, "format"), "cvs", "csv"),
    ],
)
def test_an_unknown_choice_is_answered_with_the_nearest(keys: Keys, wrong: Any, right: str) -> None:
    error = fault(changed(keys, wrong))
    written = wrong[-1] if isinstance(wrong, list) else wrong
    assert f"'{right}'" in error.expected
    assert error.mend == f"write '{right}' instead of '{written}'"
    assert str(keys[-1]) in error.where


@pytest.mark.parametrize("wrong", [1.0, 1.5, -0.1, 100, math.inf])
def test_a_sparsity_outside_its_bounds_is_refused(wrong: float) -> None:
    error = fault(changed(("curves", 0, "sparsities"), [0.5, wrong]))
    assert error.where == f"{FILE}, key curves[0].sparsities[1]"
    assert error.found == repr(wrong)
    assert "at least 0 and below 1" in error.expected


@pytest.mark.parametrize(("wrong", "near"), [(0.1234, "0.123"), (0.0005, "0.001"), (0.9999, "0.999"), (math.nan, "")])
def test_a_sparsity_that_no_path_can_hold_is_refused(wrong: float, near: str) -> None:
    error = fault(changed(("curves", 0, "sparsities"), [0.5, wrong]))
    assert error.where == f"{FILE}, key curves[0].sparsities[1]"
    assert "[0, 1) with at most three decimals" in error.expected
    assert near in error.mend


@pytest.mark.parametrize("level", range(0, 1000, 7))
def test_every_level_has_a_name_that_is_read_back(level: int) -> None:
    name = sparsity_name(level / 1000, "k")
    assert len(name) == 5
    assert float(name) == level / 1000


def test_negative_zero_is_the_dense_model() -> None:
    study = build(changed(("curves", 0, "sparsities"), [-0.0, 0.5]))
    assert {e.sparsity for e in study.evaluations} == {"0.000", "0.500"}
    assert {e.method for e in study.evaluations if e.sparsity == "0.000"} == {DENSE}


@pytest.mark.parametrize(("text", "number"), [("1e-3", "0.001"), ("5E-1", "0.5")])
def test_a_number_that_yaml_reads_as_text_is_explained(text: str, number: str) -> None:
    assert yaml.safe_load(f"a: {text}")["a"] == text, "the reason for this test"
    for keys in (("knees", "tolerance"), ("registries", "tasks", "own-class", "learning_rate")):
        error = fault(changed(keys, text))
        assert str(keys[-1]) in error.where
        assert f"write {number} " in error.mend
        assert text in error.found


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        (("study",), "My Study"),
        (("study",), "../mine"),
        (("registries", "methods"), {"a/b": {"label": "l", "score": "magnitude", "scope": "layer"}}),
        (("registries", "models", "own-wheel", "source", "package"), "--index-url=http://x"),
        (("registries", "models", "own-wheel", "source", "version"), "1/../../x"),
        (("curves",), []),
        (("curves", 0, "models"), "own-bert"),
        (("curves", 0, "seeds"), [-1]),
        (("curves", 0, "seeds"), [0.5]),
        (("knees", "tolerance"), 0),
        (("knees", "draws"), 10**9),
        (("knees", "rules"), []),
        ((*RECIPE, "steps"), 0),
        ((*RECIPE, "checkpoints"), 1),
        ((*RECIPE, "tokenizer"), {"vocab_size": 10}),
        ((*DATASET, "words"), [1]),
        ((*DATASET[:-1], "own-plain", "documents"), "(a"),
        (("registries", "models", "own-wheel", "source", "sha256"), "abc"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_key(keys: Keys, wrong: Any) -> None:
    error = fault(changed(keys, wrong))
    assert FILE in error.where
    assert str([k for k in keys if isinstance(k, str)][-1]) in error.where
    assert error.expected
    assert error.mend


def test_defaults_are_filled_in_at_every_level() -> None:
    study = build()
    assert study.config["title"]
    assert study.config["knees"] == {
        "rules": ["tolerance", "kneedle", "two-segment", "curvature", "bayes"], "tolerance": 0.01, "loss": "relative",
        "sensitivity": 1.0, "confidence": 0.95, "draws": 1000,
    }  # fmt: skip
    assert study.config["weights"][0]["checkpoints"] == ["all"]
    recipe = study.recipe("own-bert")
    assert isinstance(recipe, MaskedTextRecipe)
    assert recipe.batch_size == 32
    assert recipe.tokenizer == Vocabulary(vocab_size=2000, min_frequency=2)
    assert recipe.mask_probability == 0.15
    assert recipe.seed == 0
    assert study.models["own-bert"].dtype == "float32"
    assert study.methods["own-random"].pattern == "unstructured"
    assert study.methods["own-random"].allocation == "uniform"
    assert study.tasks["own-class"].metric == "accuracy"
    text = study.tasks["own-text"]
    assert isinstance(text, Perplexity)
    assert (text.metric, text.window) == ("perplexity", 512)
    split = study.datasets["own-texts"].split
    assert split is not None and split.seed == 0


def test_the_paper_protocol_is_the_default_of_finetuning() -> None:
    # Jaiswal et al. 2023: learning rate 2e-5, no weight decay, batch 64, length 256, all weights trained.
    task = build().tasks["own-class"]
    assert isinstance(task, Finetuning)
    assert (task.learning_rate, task.weight_decay, task.batch_size, task.max_length) == (2e-5, 0.0, 64, 256)
    assert (task.freeze, task.head) == ([], "sequence_classification")


def test_defaults_are_not_shared_between_entries() -> None:
    content = config()
    content["curves"].append(copy.deepcopy(content["curves"][0]))
    for curve in content["curves"]:
        curve.pop("seeds")
    study = build(content)
    study.config["curves"][0]["seeds"].append(7)
    assert study.config["curves"][1]["seeds"] == [0]


def test_what_is_planned() -> None:
    study = build()
    bert = ("own-bert", "step000100")
    expected = {
        # Fine-tuning draws: the dense model once a seed, each method and level once a seed.
        *(Evaluation(*bert, DENSE, "0.000", "own-class", s) for s in (0, 1)),
        *(
            Evaluation(*bert, m, level, "own-class", s)
            for m in ("own-magnitude", "own-random")
            for level in ("0.300", "0.500")
            for s in (0, 1)
        ),
        # Perplexity draws nothing, unless the mask is drawn.
        Evaluation(*bert, DENSE, "0.000", "own-text", 0),
        *(Evaluation(*bert, "own-magnitude", level, "own-text", 0) for level in ("0.300", "0.500")),
        *(Evaluation(*bert, "own-random", level, "own-text", s) for level in ("0.300", "0.500") for s in (0, 1)),
    }
    assert set(study.evaluations) == expected
    assert len(study.evaluations) == len(expected), "nothing twice"


def test_masks_of_a_deterministic_score_are_shared_by_seeds_and_tasks() -> None:
    masks = build().masks()
    assert [m for m in masks if m[2] == "own-magnitude"] == [
        ("own-bert", "step000100", "own-magnitude", 0, level) for level in ("0.300", "0.500")
    ]
    assert len([m for m in masks if m[2] == "own-random"]) == 4
    assert not [m for m in masks if m[2] == DENSE]


@pytest.mark.parametrize(
    "more",
    [
        {"sparsities": [0.5, 0.3, 0.3, 0.30]},
        {"seeds": [1, 0, 0]},
        {"methods": ["own-random", "own-magnitude", "own-random"]},
        {"sparsities": [0, 0.3, 0.5]},
        {"checkpoints": ["last", "step000100"]},
    ],
)
def test_the_order_and_repeats_of_a_list_do_not_matter(more: dict[str, Any]) -> None:
    content = config()
    content["curves"][0].update(more)
    found = build(content).evaluations
    assert set(found) == set(build().evaluations)
    assert len(found) == len(set(found)), "nothing twice"


def test_curves_that_overlap_share_their_evaluations() -> None:
    content = config()
    content["curves"].append(copy.deepcopy(content["curves"][0]))
    content["curves"][1]["sparsities"] = [0.5, 0.7]
    both, one = build(content).evaluations, build().evaluations
    assert len(both) == len(set(both))
    assert {e.sparsity for e in set(both) - set(one)} == {"0.700"}


def test_checkpoints_are_named_by_their_step() -> None:
    study = build(changed(("curves", 0, "checkpoints"), ["all"]))
    names = study.checkpoints_of("own-bert")
    assert names[0] == "step000000"
    assert names[-1] == "step000100"
    assert len(names) == 4
    assert {e.checkpoint for e in study.evaluations} == set(names)
    assert study.weights == [("own-bert", name) for name in names]
    assert study.checkpoints_of("own-wheel") == ["final"]


def measuring(every: int, *curves: str) -> Study:
    content = changed(("curves", 0, "checkpoints"), list(curves))
    content["registries"]["models"]["own-bert"]["source"]["recipe"]["checkpoint_every"] = every
    return build(content)


def test_steps_that_are_kept_for_measuring_are_checkpoints_of_weights_alone() -> None:
    usual, study = build(changed(("curves", 0, "checkpoints"), ["all"])), measuring(25, "all")
    assert study.evaluations == usual.evaluations, "`all` of curves means what it did"
    steps = {checkpoint for _, checkpoint in study.weights}
    assert steps == {"step000000", "step000025", "step000050", "step000075", "step000100"} | set(
        usual.checkpoints_of("own-bert")
    )
    assert {e.checkpoint for e in measuring(25, "step000075", "last").evaluations} == {"step000075", "step000100"}


def test_a_recipe_without_steps_for_measuring_is_what_it_was() -> None:
    assert "checkpoint_every" not in plain(build().recipe("own-bert"))


def test_only_the_last_checkpoint_of_a_measured_pretraining_is_extracted() -> None:
    study = measuring(25, "step000000")
    assert [c for m, c in study.used_checkpoints() if m == "own-bert"] == ["step000000", "step000100"]
    assert study.measured_pretrainings() == study.changing_models() == ["own-bert"]
    assert study.ageing() == []
    assert {model for model, _ in measuring(25, "step000000", "last").ageing()} == {"own-bert"}


def test_final_is_the_only_checkpoint_of_a_download() -> None:
    content = config()
    content["curves"][0].update(models=["own-wheel"], checkpoints=["step000010"])
    error = fault(content)
    assert "checkpoint 'step000010' of model 'own-wheel'" in error.found
    assert "'final'" in error.expected


def test_a_name_that_a_shared_registry_has_is_a_clash() -> None:
    content = config()
    taken = next(iter(yaml.safe_load((REPOSITORY / "config" / "methods.yaml").read_text())))
    content["registries"]["methods"][taken] = content["registries"]["methods"]["own-random"]
    error = fault(content)
    assert error.where == f"{FILE}, key registries.methods.{taken}"
    assert "config/methods.yaml defines too" in error.found


def test_a_method_cannot_be_called_dense() -> None:
    content = config()
    content["registries"]["methods"]["dense"] = content["registries"]["methods"]["own-random"]
    assert "'dense' is the unpruned model" in fault(content).mend


def test_finetuning_needs_classes_and_a_test_split() -> None:
    error = fault(changed(("registries", "tasks", "own-class", "dataset"), "own-plain"))
    assert "own-class.dataset" in error.where
    assert "without label" in error.found


def test_calibration_on_the_texts_that_are_evaluated_is_refused() -> None:
    content = config()
    content["registries"]["calibrations"] = {"own-words": {"dataset": "own-plain"}}
    content["registries"]["methods"]["own-wanda"] = {
        "label": "Wanda", "score": "wanda", "scope": "row", "calibration": "own-words",
    }  # fmt: skip
    content["curves"][0].update(methods=["own-wanda"], tasks=["own-text"])
    error = fault(content)
    assert error.where == f"{FILE}, registries.calibrations.own-words.dataset"
    assert "'own-plain', whose texts the task 'own-text' evaluates too" in error.found
    # Held-out texts, or another dataset, are none that were calibrated on.
    content["registries"]["datasets"]["own-plain"]["split"] = {"group": "film", "test_fraction": 0.2}
    build(content)
    del content["registries"]["datasets"]["own-plain"]["split"]
    content["registries"]["calibrations"]["own-words"]["dataset"] = "own-texts"
    build(content)


def test_only_weights_chosen_block_by_block_see_pruned_inputs() -> None:
    content = config()
    content["registries"]["calibrations"] = {"own-words": {"dataset": "own-texts", "propagate": "pruned"}}
    slots = {"label": "x", "scope": "row", "allocation": "owl", "calibration": "own-words"}
    content["registries"]["methods"] |= {"a": {**slots, "score": "magnitude"}, "b": {**slots, "score": "wanda"}}
    built = build(content)
    # OWL reads the dense model whatever the calibration says.
    recorded = {name: (built.slots(name) or {})["propagate"] for name in ("a", "b", "own-magnitude")}
    assert recorded == {"a": "dense", "b": "pruned", "own-magnitude": ""}


def test_a_dataset_cannot_be_pretrained() -> None:
    source = at(config(), ("registries", "models", "own-bert", "source"))
    error = fault(changed((*DATASET, "source"), source))
    assert "own-texts.source.kind" in error.where


def local(content: dict[str, Any], path: str) -> None:
    content["registries"]["models"]["own-local"] = {"licence": "MIT", "source": {"kind": "path", "path": path}}
    content["curves"][0].update(models=["own-local"], checkpoints=["final"])


def test_a_missing_local_path_is_found_before_any_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = config()
    local(content, "models/nowhere")
    error = fault(copy.deepcopy(content))
    assert error.where == f"{FILE}, registries.models.own-local.source.path"
    assert "models/nowhere" in error.found
    assert str(tmp_path) in error.found
    folder = tmp_path / "models" / "nowhere"
    folder.mkdir(parents=True)
    (folder / "notes.md").touch()
    assert "no weights among 'notes.md'" in fault(copy.deepcopy(content)).found
    (folder / "model.safetensors").touch()
    assert "weights without a config.json" in fault(copy.deepcopy(content)).found
    (folder / "config.json").touch()
    assert ("own-local", "final") in build(copy.deepcopy(content)).used_checkpoints()
    content["registries"]["models"]["own-local"]["source"]["sha256"] = "0" * 64
    assert "a digest for the folder" in fault(content).found


def test_a_gguf_file_needs_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = config()
    local(content, "model.gguf")
    (tmp_path / "model.gguf").touch()
    assert ("own-local", "final") in build(content).used_checkpoints()


def test_gpus_that_cannot_share_a_batch_are_found_before_any_job() -> None:
    study = build()
    batch = study.tasks["own-class"].batch_size
    for gpus in (0, 1, 2, batch):
        check_batches(study, "finetune_model", ["own-class"], gpus)
    check_batches(study, "finetune_model", [], 3)
    with pytest.raises(UserError, match=f"own-class.batch_size: found {batch} rows for 3 GPUs"):
        check_batches(study, "finetune_model", ["own-class"], 3)


def test_a_missing_path_that_the_study_does_not_use_is_no_fault() -> None:
    content = config()
    local(content, "nowhere/at/all")
    content["curves"][0].update(models=["own-bert"], checkpoints=["last"])
    assert build(content).evaluations == build().evaluations


def test_two_digests_for_one_wheel_are_a_fault() -> None:
    study = build(changed(("registries", "models", "own-wheel", "source", "sha256"), "1" * 64))
    with pytest.raises(UserError, match="another SHA-256 for texts"):
        study.wheel("texts", "1.0")
    source, where = build().wheel("texts", "1.0")
    assert source.sha256 == "0" * 64
    # Without the file's or the study's name: it stands in parameters, and neither may make a job rerun.
    assert where == "the study file, registries.models.own-wheel.source"


def test_labels_and_notes_do_not_define_a_job() -> None:
    content = config()
    content["registries"]["methods"]["own-random"]["label"] = "another label"
    content["registries"]["tasks"]["own-class"]["label"] = "another label"
    content["registries"]["datasets"]["own-texts"]["note"] = "a note"
    content["registries"]["models"]["own-bert"]["note"] = "a note"
    one, other = build(), build(content)
    for study in (one, other):
        assert study.slots(DENSE) is None
    assert one.slots("own-random") == other.slots("own-random")
    for kind, name in (("tasks", "own-class"), ("datasets", "own-texts")):
        assert one.defining(kind, name) == other.defining(kind, name)
    content["registries"]["tasks"]["own-class"]["epochs"] = 9
    assert build(content).defining("tasks", "own-class") != one.defining("tasks", "own-class")


@pytest.mark.parametrize(("kind", "hint"), [("datasets", Dataset), ("tasks", AnyTask), ("calibrations", Calibration)])
def test_a_job_is_told_all_of_an_entry_but_what_is_only_said_of_it(kind: str, hint: Any) -> None:
    study = build()
    entries = getattr(study, kind)
    assert entries
    for name, entry in entries.items():
        told = study.defining(kind, name)
        left = set(plain(entry)) - set(told)
        assert left <= ({"label"} if kind == "tasks" else {"note", "licence"}), "a dataset's `label` is a column"
        given = {key: getattr(entry, key) for key in left}
        assert record(hint, told | given) == entry


def test_used_datasets_include_the_corpus_of_a_pretraining() -> None:
    content = config()
    content["curves"][0]["tasks"] = ["own-text"]
    assert build(content).used_datasets() == ["own-plain", "own-texts"]
    assert all(s.package == "texts" for s in build(content).used_wheels())
    assert len(build(content).used_wheels()) == 2


@pytest.mark.parametrize("file", sorted(p.name for p in (REPOSITORY / "config").glob("config.yaml")))
def test_the_default_study_is_valid(file: str) -> None:
    study = resolve(load_yaml(REPOSITORY / "config" / file), REPOSITORY, f"config/{file}")
    levels: dict[tuple[str, str], set[str]] = {}
    for e in study.evaluations:
        if e.method != DENSE:
            levels.setdefault((e.model, e.method), set()).add(e.sparsity)
    assert levels
    assert all(len(found) >= 6 for found in levels.values()), "at least six sparsities a curve (issue 2)"


def test_the_message_of_an_error_says_all_four_things() -> None:
    text = str(UserError("a.yaml, key b", "1", "2", "write 2"))
    parts: list[Callable[[str], bool]] = [lambda t, w=w: w in t for w in ("a.yaml, key b", "found 1", "expected 2")]
    assert all(part(text) for part in parts)
    assert text.endswith("To mend: write 2.")


def test_a_curve_needs_a_level_above_zero() -> None:
    content = config()
    content["curves"][0]["sparsities"] = [0]
    with pytest.raises(UserError, match=r"curves\[0\]\.sparsities: found no sparsity above 0"):
        build(content)


@pytest.mark.parametrize("key", ["classes", "sentences", "balance"])
def test_what_needs_a_label_asks_for_it(key: str) -> None:
    content = config()
    value = {"classes": {"a": "b"}, "sentences": {"classes": ["a"], "per_text": 1}, "balance": True}[key]
    entry = {"source": {"kind": "path", "path": "."}, "licence": "MIT", "format": "csv", "text": "text", key: value}
    content["registries"]["datasets"]["unlabelled"] = entry
    with pytest.raises(UserError, match=f"'{key}' without 'label'"):
        build(content)


def test_heads_must_divide_the_hidden_size() -> None:
    content = config()
    content["registries"]["models"]["own-bert"]["source"]["recipe"]["architecture"]["num_attention_heads"] = 7
    with pytest.raises(UserError, match=r"hidden_size.*multiple of num_attention_heads"):
        build(content)


def test_parameters_of_jobs_do_not_know_the_name_of_the_study() -> None:
    content = config()
    content["study"] = "another"
    one, other = build(), build(content)
    assert one.where("models", "own-bert") == other.where("models", "own-bert")


HUB = {"kind": "hub", "repository": "org/m"}
STEPS = {"kind": "hub", "trajectory": {"repository": "org/m", "revision": "step{step}", "steps": [0, 10, 20]}}
TABLE = {"licence": "MIT", "format": "csv", "text": "text"}


def with_hub(source: dict[str, Any], **curve: Any) -> dict[str, Any]:
    """Return the study with a model from the hub, and a dataset for its task."""
    content = config()
    content["registries"]["models"]["own-hub"] = {"licence": "MIT", "source": copy.deepcopy(source)}
    tables = {"kind": "hub", "repository": "org/d", "files": {"train": ["a.csv"], "test": ["b.csv"]}}
    content["registries"]["datasets"]["own-tables"] = {**TABLE, "source": tables, "label": "kind"}
    content["registries"]["tasks"]["own-hub-task"] = {
        "label": "l", "protocol": "finetune", "dataset": "own-tables",
    }  # fmt: skip
    content["curves"][0].update(models=["own-hub"], checkpoints=["all"], tasks=["own-hub-task"], **curve)
    content["weights"] = [{"models": ["own-hub"]}]
    return content


def test_a_model_of_the_hub_has_one_checkpoint_and_one_download() -> None:
    study = build(with_hub(HUB))
    assert study.checkpoints_of("own-hub") == ["final"]
    assert study.used_downloads() == ["datasets/own-tables", "models/own-hub/final"]
    assert study.download("models/own-hub/final") == (Hub(kind="hub", repository="org/m", revision="main"), False)
    tables, _ = study.download("datasets/own-tables")
    assert isinstance(tables, Hub)
    assert tables.files == {"train": ["a.csv"], "test": ["b.csv"]}
    assert study.download_key("models/own-hub/final") == "the study file, registries.models.own-hub.source"
    assert study.used_trajectories() == []


def test_a_trajectory_has_a_checkpoint_and_a_download_a_step() -> None:
    study = build(with_hub(STEPS))
    assert study.checkpoints_of("own-hub") == ["step000000", "step000010", "step000020"]
    assert study.used_trajectories() == ["own-hub"]
    # Only its own step: adding a step must not make the others anew.
    source = Hub(kind="hub", repository="org/m", revision="step10")
    assert study.download("models/own-hub/step000010") == (source, False)
    assert study.source("own-hub", "step000010") == source
    assert study.download_key("models/own-hub/step000010").endswith("own-hub.source.trajectory")


def test_steps_that_the_hub_lacks_are_left_out_of_the_study() -> None:
    study = build(with_hub(STEPS))
    left = study.without({("own-hub", "step000010")})
    assert {e.checkpoint for e in left.evaluations} == {"step000000", "step000020"}
    assert left.weights == [("own-hub", "step000000"), ("own-hub", "step000020")]
    assert {checkpoint for _, checkpoint, *_ in left.masks()} == {"step000000", "step000020"}
    assert "models/own-hub/step000010" not in left.used_downloads()
    assert len({e.checkpoint for e in study.evaluations}) == 3, "the study itself is as it was"
    with pytest.raises(UserError, match="only checkpoints that the hub does not have"):
        study.without({("own-hub", name) for name in study.checkpoints_of("own-hub")})


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"kind": "hub"}, "no key 'repository'"),
        ({"kind": "hub", "repo": "org/m"}, "unknown key 'repo'"),
        ({"kind": "hub", "repository": "https://hub/org/m"}, "'https://hub/org/m'"),
        ({**HUB, "revision": "a branch"}, "'a branch'"),
        ({**HUB, "revision": "../../refs"}, "'../../refs'"),
        ({**HUB, "revision": datetime.date(2024, 8, 26)}, "2024-08-26, which YAML does not read as text"),
        ({**HUB, **STEPS}, "unknown key 'repository'"),
        ({**HUB, "files": {"train": ["a"]}}, "`files` of a model"),
        ({"kind": "hub", "trajectory": {"repository": "org/m"}}, "no key 'steps'"),
        ({"kind": "hub", "trajectory": {"repository": "org/m", "steps": [1, 2]}}, "for every step"),
        ({"kind": "hub", "trajectory": {"repository": "org/m{step}", "steps": {"from": 1}}}, "'from' without 'to'"),
        ({"kind": "hub", "trajectory": {"repository": "org/m{step}", "steps": []}}, "a list"),
    ],
)
def test_a_wrong_source_of_the_hub_is_refused(source: dict[str, Any], says: str) -> None:
    error = fault(with_hub(source))
    assert "own-hub.source" in error.where
    assert says in error.found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["source"].pop("files"), "no key 'files'"),
        (lambda d: d.update(split={"group": "g", "test_fraction": 0.5}), "files for `test` beside"),
        (lambda d: d["source"]["files"].pop("test"), "without a test split"),
    ],
)
def test_a_wrong_dataset_of_the_hub_is_refused(change: Callable[[dict[str, Any]], object], says: str) -> None:
    content = with_hub(HUB)
    change(content["registries"]["datasets"]["own-tables"])
    assert says in fault(content).found


def placing(adaptive: dict[str, Any], **curve: Any) -> dict[str, Any]:
    """Return the study with levels that the workflow places."""
    content = config()
    content["curves"][0].update(sparsities={"adaptive": adaptive}, **curve)
    return content


LAST = "step000100"


def test_an_empty_mapping_places_levels_with_the_defaults() -> None:
    study = build(placing({}))
    # Two methods, two tasks.
    assert len(study.sweeps) == 4
    start = ["0.100", "0.300", "0.500", "0.700", "0.900"]
    assert study.sweeps[0].settings == Placing(0.01, "relative", start, 12, 0.01, 2)
    assert {e.sparsity for e in study.evaluations if e.method != DENSE} == set(study.sweeps[0].settings.start)
    assert build().sweeps == []


def test_a_tolerance_of_its_own_leaves_that_of_the_knees() -> None:
    study = build(placing({"tolerance": 0.05}))
    assert study.sweeps[0].settings.tolerance == 0.05
    assert study.knees.tolerance == 0.01


def test_sweeps_have_the_seeds_that_matter() -> None:
    study = build(placing({}))
    assert study.sweep("own-bert", LAST, "own-magnitude", "own-text").seeds == (0,)
    assert study.sweep("own-bert", LAST, "own-random", "own-text").seeds == (0, 1)
    assert study.sweep("own-bert", LAST, "own-magnitude", "own-class").seeds == (0, 1)


def test_the_evaluations_of_a_sweep_are_its_levels_at_all_seeds_and_the_dense_model() -> None:
    study = build(placing({}))
    sweep = study.sweep("own-bert", LAST, "own-random", "own-text")
    assert study.sweep_evaluations(sweep, [0.3, 0.55]) == [
        Evaluation("own-bert", LAST, "dense", "0.000", "own-text", 0),
        *(
            Evaluation("own-bert", LAST, "own-random", level, "own-text", seed)
            for level in ("0.300", "0.550")
            for seed in (0, 1)
        ),
    ]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: changed(("curves", 0, "seeds"), list(range(50_000))),
        lambda: with_hub(
            {"kind": "hub", "trajectory": {"repository": "o/m-{step}", "steps": {"from": 0, "to": 10**5, "every": 1}}}
        ),
    ],
)
def test_a_typing_error_does_not_plan_millions_of_jobs(ask: Callable[[], dict[str, Any]]) -> None:
    error = fault(ask())
    assert error.where == f"{FILE}, key curves[0]"
    assert "combinations" in error.found
    assert error.expected == "at most 200,000"


def test_placed_levels_join_those_that_are_known() -> None:
    study = build(placing({"start": [0.2, 0.4]}, methods=["own-magnitude"], tasks=["own-text"]))
    (sweep,) = study.sweeps
    found = study.with_levels({sweep.curve: [0.2, 0.4, 0.333]})
    assert {e.sparsity for e in found.evaluations} == {"0.000", "0.200", "0.333", "0.400"}
    assert {sparsity for *_, sparsity in found.masks()} == {"0.200", "0.333", "0.400"}
    assert {e.sparsity for e in study.evaluations} == {"0.000", "0.200", "0.400"}, "the study itself is as it was"


def test_the_worst_case_is_every_budget_spent() -> None:
    study = build(placing({"budget": 10, "per_round": 2}))
    # Each of four curves has ten levels, the dense one among them, at most; all but one at two seeds.
    levels = [0.01, 0.02, 0.03, 0.04, *map(float, study.sweeps[0].settings.start)]
    count = len({e for s in study.sweeps for e in study.sweep_evaluations(s, levels)})
    # Four levels beyond the five of the start, two a round, after the first round.
    assert study.worst_case() == f"Adaptive: at most {count} evaluations in 3 rounds for 4 curves (10 levels each)."
    assert build().worst_case() == ""


def test_a_pattern_has_one_level_and_none_to_place() -> None:
    content = placing({}, methods=["own-magnitude", "own-pattern"])
    content["registries"]["methods"]["own-pattern"] = {
        "label": "2:4", "score": "magnitude", "scope": "row", "pattern": "2:4",
    }  # fmt: skip
    study = build(content)
    assert {s.method for s in study.sweeps} == {"own-magnitude"}
    assert {e.sparsity for e in study.evaluations if e.method == "own-pattern"} == {"0.500"}


def test_levels_are_placed_for_the_steps_that_the_hub_has() -> None:
    study = build(with_hub(STEPS, sparsities={"adaptive": {}}))
    assert {s.checkpoint for s in study.sweeps} == set(study.checkpoints_of("own-hub"))
    left = study.without({("own-hub", "step000010")})
    assert {s.checkpoint for s in left.sweeps} == {"step000000", "step000020"}


def test_what_levels_depend_on_is_not_the_name_of_the_study_nor_the_rules() -> None:
    one = build(placing({}))
    content = placing({})
    content.update(study="another", knees={"tolerance": 0.01, "rules": ["kneedle"]})
    other = build(content)
    assert [s.settings for s in one.sweeps] == [s.settings for s in other.sweeps]


@pytest.mark.parametrize(
    ("adaptive", "where", "says"),
    [
        ({"budget": 6}, "budget", "6, which the dense model and 5 levels of `start` use up"),
        ({"budget": 2}, "budget", "2"),
        ({"budget": 10**9}, "budget", "1000000000"),
        ({"start": [0.1234]}, "start[0]", "0.1234"),
        ({"start": []}, "start", "a list"),
        ({"start": [0.0]}, "start[0]", "0.0"),
        ({"start": [1.0]}, "start[0]", "1.0"),
        ({"width": 0.0155}, "width", "0.0155"),
        ({"width": 0}, "width", "0"),
        ({"per_round": 0}, "per_round", "0"),
        ({"tolerence": 0.1}, "tolerence", "the unknown key 'tolerence'"),
    ],
)
def test_a_wrong_way_of_placing_is_refused(adaptive: dict[str, Any], where: str, says: str) -> None:
    error = fault(placing(adaptive))
    assert error.where.endswith(f"curves[0].sparsities.adaptive.{where}")
    assert error.found == says


def test_a_mapping_of_sparsities_says_adaptive() -> None:
    content = config()
    content["curves"][0]["sparsities"] = {"adaptiv": {}}
    assert fault(content).mend == "write 'adaptive' instead of 'adaptiv'"


def test_levels_of_a_curve_are_placed_once() -> None:
    content = placing({})
    content["curves"].append({**content["curves"][0], "methods": ["own-random"]})
    assert "own-random" in fault(content).found
    # Levels that are given besides are evaluated besides.
    content["curves"][1]["sparsities"] = [0.25]
    assert "0.250" in {e.sparsity for e in build(content).evaluations}


# --- Rounds, and comparisons of masks ---


def with_rounds(**rounds: Any) -> dict[str, Any]:
    """Return the study with a method of three rounds, evaluated at two of its levels, on another task as well."""
    content = config()
    entry = {"task": "own-class", "levels": [0.3, 0.5, 0.7], **rounds}
    method = {"label": "ticket", "score": "magnitude", "scope": "global", "rounds": entry}
    content["registries"]["methods"]["own-ticket"] = method
    content["curves"].append({**content["curves"][0], "methods": ["own-ticket"], "tasks": ["own-text"]})
    return content


def test_masks_of_rounds_belong_to_a_seed_whatever_is_evaluated_on_them() -> None:
    study = build(with_rounds())
    masks = {mask for mask in study.masks() if mask[2] == "own-ticket"}
    assert masks == {("own-bert", LAST, "own-ticket", seed, level) for seed in (0, 1) for level in ("0.300", "0.500")}
    rows = {(e.task, e.seed) for e in study.evaluations if e.method == "own-ticket"}
    assert rows == {("own-text", 0), ("own-text", 1)}, "perplexity draws nothing, but its masks do"


def test_a_round_stands_on_those_before_it() -> None:
    study = build(with_rounds())
    assert [study.level_before("own-ticket", level) for level in ("0.300", "0.500", "0.700")] == [
        None,
        "0.300",
        "0.500",
    ]
    assert study.masks_behind("own-ticket", "0.500") == ["0.300", "0.500"]
    assert study.masks_behind("own-magnitude", "0.500") == ["0.500"]
    slots = study.slots("own-ticket", "0.500")
    assert slots is not None and slots["rounds"] == {"task": "own-class", "levels": [0.3, 0.5]}
    assert slots == build(with_rounds(levels=[0.3, 0.5, 0.9])).slots("own-ticket", "0.500"), (
        "later levels do not matter"
    )
    with pytest.raises(UserError, match=r"own-ticket\.rounds\.levels: found no round that prunes to 0\.600"):
        study.level_before("own-ticket", "0.600")


def test_what_rounds_train_on_is_prepared_though_nothing_is_evaluated_on_it() -> None:
    content = with_rounds()
    content["curves"] = content["curves"][1:]
    study = build(content)
    assert study.used_tasks() == ["own-text"]
    assert ("own-bert", "own-class") in study.preparations()
    assert "own-texts" in study.used_datasets()
    content["curves"][0]["methods"] = ["own-magnitude"]
    assert ("own-bert", "own-class") not in build(content).preparations()


@pytest.mark.parametrize(
    ("rounds", "where", "says"),
    [
        ({"task": "own-clas"}, "rounds.task", "the unknown task 'own-clas'"),
        ({"task": "own-text"}, "rounds.task", "a task of the protocol 'perplexity'"),
        ({"levels": [0.3, 0.2]}, "rounds.levels[1]", "0.200 after 0.300"),
        ({"levels": [0.3, 0.3]}, "rounds.levels[1]", "0.300 after 0.300"),
        ({"levels": [0.3, 0.1234]}, "rounds.levels[1]", "0.1234"),
        ({"levels": [0.3, 1.0]}, "rounds.levels[1]", "1.0"),
        ({"levels": [0.0, 0.3]}, "rounds.levels[0]", "0.0"),
        ({"levels": []}, "rounds.levels", "a list"),
        ({"levels": [0.3, 0.7]}, "curves[1].sparsities", "the level 0.500, to which no round of the method"),
        ({"rewind": "early"}, "rounds", "the unknown key 'rewind'"),
    ],
)
def test_wrong_rounds_are_refused(rounds: dict[str, Any], where: str, says: str) -> None:
    error = fault(with_rounds(**rounds))
    assert where in error.where
    assert says in error.found
    assert error.mend


def test_levels_are_not_placed_for_rounds_which_say_what_there_is() -> None:
    content = with_rounds(levels=[0.1, 0.3, 0.5, 0.7, 0.9])
    content["curves"][1]["sparsities"] = {"adaptive": {}}
    error = fault(content)
    assert error.where == f"{FILE}, key curves[1].sparsities"
    assert "'own-ticket'" in error.found and "'0.900'" in error.expected


def compared(*methods: str, **entry: Any) -> dict[str, Any]:
    content = with_rounds()
    content["similarities"] = [{"models": ["own-bert"], "methods": list(methods), **entry}]
    return content


def test_masks_are_compared_at_every_level_and_seed_that_both_have() -> None:
    content = compared("own-ticket", "own-magnitude", "own-random")
    content["curves"][1].update(sparsities=[0.5, 0.7], seeds=[1, 2])
    # The same pair once more, turned round.
    content["similarities"].append({"models": ["own-bert"], "methods": ["own-random", "own-magnitude"]})
    pairs = build(content).mask_pairs()
    found = [(p.sparsity, p.method, p.other_method, p.seed, p.mask_seed, p.other_seed) for p in pairs]
    assert sorted(found) == sorted([
        # Magnitude has one mask a level, at 0.3 and 0.5; tickets have seeds 1 and 2, at 0.5 and 0.7.
        ("0.500", "own-ticket", "own-magnitude", 1, 1, 0),
        ("0.500", "own-ticket", "own-magnitude", 2, 2, 0),
        ("0.500", "own-ticket", "own-random", 1, 1, 1),
        *((level, "own-magnitude", "own-random", seed, 0, seed) for level in ("0.300", "0.500") for seed in (0, 1)),
    ])  # fmt: skip
    masks = set(build(content).masks())
    assert all(mask in masks for pair in pairs for mask in pair.masks)


def test_two_methods_that_draw_nothing_are_compared_once() -> None:
    content = compared("own-magnitude", "own-layer")
    content["registries"]["methods"]["own-layer"] = {"label": "layer", "score": "magnitude", "scope": "layer"}
    content["curves"][0]["methods"].append("own-layer")
    assert [(p.sparsity, p.seed) for p in build(content).mask_pairs()] == [("0.300", 0), ("0.500", 0)]
    assert build().mask_pairs() == []


@pytest.mark.parametrize(
    ("methods", "entry", "where", "says"),
    [
        (["own-ticket", "own-random", "own-tickt"], {}, "similarities[0].methods[2]", "'own-tickt'"),
        (["own-ticket", "own-ticket"], {}, "similarities[0].methods", "'own-ticket'"),
        (["own-ticket"], {}, "similarities[0].methods", "a list"),
        (["own-ticket", "magnitude-row"], {}, "similarities[0].methods", "'magnitude-row', of which the study has no"),
        (["own-ticket", "own-random"], {"models": ["own-brt"]}, "similarities[0].models[0]", "'own-brt'"),
        (["own-ticket", "own-random"], {"checkpoints": ["step9"]}, "similarities[0].checkpoints", "'step9'"),
        (
            ["own-ticket", "own-random"],
            {"checkpoints": ["all"]},
            "similarities[0].methods",
            "no mask of own-bert, step",
        ),
    ],
)
def test_a_wrong_comparison_is_refused(methods: list[str], entry: dict[str, Any], where: str, says: str) -> None:
    error = fault(compared(*methods, **entry))
    assert error.where.startswith(f"{FILE}, key {where}")
    assert says in error.found


def test_methods_without_a_level_in_common_are_refused() -> None:
    content = compared("own-ticket", "own-magnitude")
    content["curves"][1]["sparsities"] = [0.7]
    assert "no level and seed in common" in fault(content).found
