"""Bad input: a message that names what is wrong and the mend, no traceback, nothing half-written, and on it goes.

All that is bad in one way or another is in one study: one run refuses it, and one more makes it when it is mended.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from package_index import use_only


def models(config: dict[str, Any]) -> Any:
    return config["registries"]["models"]


def assert_refused(clone: Any, *arguments: str, says: list[str]) -> None:
    """Run, expect failure with a message that holds every text, no traceback, and no output of the failed job."""
    result = clone.snakemake(*arguments)
    printed = result.stdout + result.stderr
    assert result.returncode != 0
    for text in says:
        assert text in printed, printed
    assert "Traceback" not in printed
    assert "To mend:" in printed
    for target in arguments:
        assert not (clone.work / target).exists()
    # No temporary file of an output that was being written is left; Snakemake dates folders by files of its own.
    left = {path.name for path in (clone.work / "results").rglob(".*") if path.is_file()}
    assert left <= {".snakemake_timestamp"}


def mistype_key(config: dict[str, Any]) -> None:
    config["curves"][0]["sparsity"] = config["curves"][0].pop("sparsities")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (mistype_key, ["study.yaml", "curves[0]", "'sparsity'", "'sparsities'"]),
        (lambda c: models(c)["tiny-llama"]["source"].update(path="lama"), ["source.path", "'lama'", "does not exist"]),
    ],
)
def test_a_wrong_configuration_stops_before_any_job(
    fresh: Any, change: Callable[[dict[str, Any]], object], says: list[str]
) -> None:
    fresh.configure(change)
    assert_refused(fresh, says=says)
    assert not (fresh.work / "results").exists()


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def spoil_a_weight(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def lose_a_shard(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    sorted(folder.glob("*.safetensors"))[1].unlink()


def become_convolutional(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    for file in folder.iterdir():
        file.unlink()
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], num_channels=3)
    ResNetForImageClassification(config).save_pretrained(folder)


DAMAGES = {"cut": cut, "nan": spoil_a_weight, "shard": lose_a_shard, "resnet": become_convolutional}
PACKAGES = ("tiny-texts", "tiny-digest", "tiny-version", "tiny-member")


def write_wheel(index: Path, package: str, texts: Path) -> str:
    """Write a wheel with the texts; return its digest."""
    name = package.replace("-", "_")
    path = index / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(texts, "texts/texts.csv")
        archive.writestr("texts/__init__.py", "raise SystemExit('a wheel must never be executed')")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ask_for_all(config: dict[str, Any], digests: dict[str, str]) -> None:
    """Add a model, a method or a dataset for each of the cases: all that is asked for is right."""
    registries = config["registries"]
    texts = registries["datasets"]["tiny-kinds"]
    for name in (*DAMAGES, "named"):
        models(config)[name] = {"source": {"kind": "path", "path": name}, "licence": "MIT"}
    registries["methods"] = {"of-two": {"label": "N:M", "score": "magnitude", "scope": "row", "pattern": "1:2"}}
    sources = {"one-class": {"kind": "path", "path": "one.csv"}} | {
        package: {
            "kind": "wheel", "package": package, "version": "1.0", "sha256": digests[package],
            "member": "texts/texts.csv",
        }
        for package in PACKAGES
    }  # fmt: skip
    for name, source in sources.items():
        registries["datasets"][name] = {**texts, "source": source}
        registries["tasks"][f"{name}-task"] = {**registries["tasks"]["tiny-kind"], "dataset": name}
    config["curves"][0]["models"] = ["tiny-llama", *DAMAGES, "named"]
    config["curves"][1]["tasks"] = ["tiny-kind", *(f"{name}-task" for name in sources)]
    config["curves"].append(
        {**config["curves"][0], "models": ["tiny-llama"], "methods": ["of-two"], "sparsities": [0.5]}
    )


def spoil(config: dict[str, Any]) -> None:
    """Make of the configuration what is wrong in it."""
    registries = config["registries"]
    models(config)["named"]["include"] = ["lm_heads.weight"]
    models(config)["tiny-bert"]["source"]["recipe"]["learning_rate"] = 1e30
    registries["methods"]["of-two"]["pattern"] = "3:7"
    config["curves"][-1]["sparsities"] = [0.571]
    sources = {name: registries["datasets"][name]["source"] for name in PACKAGES}
    sources["tiny-digest"]["sha256"] = "0" * 64
    sources["tiny-version"]["version"] = "2.0"
    sources["tiny-member"]["member"] = "texts/text.csv"


def weights(model: str) -> str:
    return f"results/checkpoints/{model}/final/model.safetensors"


def rows(dataset: str) -> str:
    return f"results/datasets/{dataset}.parquet"


def mask(sparsity: str) -> str:
    return f"results/masks/tiny-llama/final/of-two/0/{sparsity}.safetensors"


# What is asked for, the log of the job that is refused, and what it says.
CASES: dict[str, tuple[str, str, list[str]]] = {
    "cut": (
        weights("cut"), "extract_checkpoint/cut/final", ["cut.source", "model.safetensors", "file not fully covered"],
    ),
    "nan": (
        weights("nan"), "extract_checkpoint/nan/final",
        ["nan.source", "model.layers.1.mlp.up_proj.weight", "1 NaN or infinite"],
    ),
    "shard": (
        weights("shard"), "extract_checkpoint/shard/final",
        ["shard.source", "no shard 'model-00002-of-", "model.layers."],
    ),
    "resnet": (
        "results/matrices/resnet.json", "list_matrices/resnet",
        ["resnet", "ResNetForImageClassification", "none of them a linear weight"],
    ),
    "named": ("results/matrices/named.json", "list_matrices/named", ["named", "matches no matrix", "lm_head.weight"]),
    "pattern": (
        mask("0.571"), "prune_weights/tiny-llama/final/of-two/0/0.571",
        ["model.layers.0.", "pattern 3:7", "a row length that 7 divides", "exclude"],
    ),
    "diverging": (
        "results/pretraining/tiny-bert/index.json", "pretrain_model/tiny-bert",
        ["tiny-bert.source.recipe", "nan", "learning_rate"],
    ),
    "one class": (rows("one-class"), "prepare_dataset/one-class", ["one-class", "1 class(es) ('plot')", "two classes"]),
    "digest": (rows("tiny-digest"), "download_package/tiny-digest-1.0", ["sha256", "0" * 64, "do not trust"]),
    "version": (
        rows("tiny-version"), "download_package/tiny-version-2.0",
        ["source.version", "version 2.0 of tiny-version", "the newest: 1.0"],
    ),
    "member": (
        rows("tiny-member"), "prepare_dataset/tiny-member", ["source.member", "'texts/text.csv'", "texts/texts.csv"],
    ),
}  # fmt: skip
GOOD = rows("tiny-texts")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The index of packages of a machine that has no other."""
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        use_only(folder, patch)
        yield folder


@dataclass
class Refused:
    """A study of which much is refused, after its run.

    Attributes:
        clone: The study.
        printed: What the run printed.
        messages: Of that, what each job said, by its log.
        there: The targets that were made all the same.
        whole: The study file without what is wrong.
    """

    clone: Any
    printed: str
    messages: dict[str, str]
    there: set[str]
    whole: str


@pytest.fixture(scope="module")
def refused(index: Path, make_clone: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Refused:
    clone = make_clone(tmp_path_factory.mktemp("refused"))
    digests = {package: write_wheel(index, package, clone.work / "texts.csv") for package in PACKAGES}
    for name in (*DAMAGES, "named"):
        shutil.copytree(clone.work / "llama", clone.work / name)
    shutil.copy(clone.work / "texts.csv", clone.work / "one.csv")
    clone.configure(lambda config: ask_for_all(config, digests))
    whole = clone.study_file.read_text()
    for name, damage in DAMAGES.items():
        damage(clone.work / name)
    pd.read_csv(clone.work / "one.csv").assign(kind="plot").to_csv(clone.work / "one.csv", index=False)
    clone.configure(spoil)
    targets = [target for target, _, _ in CASES.values()]
    result = clone.snakemake("--keep-going", "--", GOOD, *targets)
    assert result.returncode != 0
    printed = result.stdout + result.stderr
    said = re.findall(r"^Error in \w+: (.*?)\n\(log: results/logs/(.*?)\.log\)", printed, re.DOTALL | re.MULTILINE)
    there = {target for target in (GOOD, *targets) if (clone.work / target).exists()}
    return Refused(clone, printed, {log: message for message, log in said}, there, whole)


@pytest.fixture(scope="module")
def mended(refused: Refused) -> Any:
    """The same study when what was wrong is mended, and the same command was run again."""
    clone = refused.clone
    for name in DAMAGES:
        shutil.rmtree(clone.work / name)
        shutil.copytree(clone.work / "llama", clone.work / name)
    shutil.copy(clone.work / "texts.csv", clone.work / "one.csv")
    clone.study_file.write_text(refused.whole)
    clone.run("--", *(target.replace("0.571", "0.500") for target, _, _ in CASES.values()))
    return clone


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_used_is_named_with_its_mend(refused: Refused, case: str) -> None:
    target, log, says = CASES[case]
    message = refused.messages[log]
    for text in [*says, "To mend:"]:
        assert text in message
    assert target not in refused.there


def test_what_is_refused_leaves_nothing_behind(refused: Refused) -> None:
    assert set(refused.messages) == {log for _, log, _ in CASES.values()}
    assert "Traceback" not in refused.printed
    left = [path.name for path in (refused.clone.work / "results").rglob("*") if path.is_file()]
    # No temporary file of an output that was being written, and no file that is not to be trusted.
    assert {name for name in left if name.startswith(".")} <= {".snakemake_timestamp"}
    assert [name for name in left if name.startswith("tiny-digest")] == ["tiny-digest-1.0.log"]


def test_what_is_right_is_made_all_the_same(refused: Refused) -> None:
    assert refused.there == {GOOD}
    assert len(pd.read_parquet(refused.clone.work / GOOD)) == 240


@pytest.mark.parametrize("case", CASES)
def test_after_the_mend_the_same_command_makes_it(mended: Any, case: str) -> None:
    assert (mended.work / CASES[case][0].replace("0.571", "0.500")).is_file()


def test_a_damaged_mask_is_named(clone: Any) -> None:
    mask = clone.work / "results/masks/tiny-llama/final/magnitude-global/0/0.300.safetensors"
    target = "results/evaluations/tiny-llama/final/magnitude-global/0.300/tiny-perplexity/0.parquet"
    mask.write_bytes(mask.read_bytes()[:100])
    (clone.work / target).unlink()
    assert_refused(clone, target, says=["0.300.safetensors", "a file that is not a mask", "delete this file"])
    mask.unlink()
    clone.run(target)


def test_a_dense_model_at_chance_is_flagged_in_the_table_and_the_report(fresh: Any) -> None:
    # Labels that have nothing to do with the texts.
    clone, path = fresh, fresh.work / "texts.csv"
    few = {"methods": ["magnitude-global"], "sparsities": [0.5, 0.9], "seeds": [0]}
    clone.configure(lambda study: study.update(curves=[study["curves"][1] | few]))
    frame = pd.read_csv(path)
    frame["kind"] = frame["kind"].sample(frac=1, random_state=1).to_numpy()
    frame.to_csv(path, index=False)
    clone.run()
    tables = clone.work / "results/studies/tiny/tables"
    evaluations, knees = (pd.read_parquet(tables / f"{name}.parquet") for name in ("evaluations", "knees"))
    dense = evaluations[(evaluations["model"] == "tiny-bert") & (evaluations["method"] == "dense")]
    assert set(dense["flags"]) == {"dense at chance"}
    assert knees.loc[knees["model"] == "tiny-bert", "flags"].str.contains("dense at chance").all()
    assert "at chance" in (clone.work / "results/studies/tiny/report.html").read_text()


def test_no_network_says_so(fresh: Any, index: Path) -> None:
    package = "tiny-texts"
    digest = write_wheel(index, package, fresh.work / "texts.csv")
    source = {"kind": "wheel", "package": package, "version": "1.0", "sha256": digest, "member": "texts/texts.csv"}
    fresh.configure(lambda c: c["registries"]["datasets"]["tiny-kinds"].update(source=source))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PIP_NO_INDEX")
        patch.delenv("PIP_FIND_LINKS")
        patch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        patch.setenv("PIP_RETRIES", "0")
        refusal = ["source.package", "could not download tiny-texts==1.0", "check the network"]
        assert_refused(fresh, rows("tiny-kinds"), says=refusal)
    fresh.run(rows("tiny-kinds"))
