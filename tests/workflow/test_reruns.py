"""What reruns after a change: exactly the jobs whose input, parameters or code changed, and what follows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

READ = {"Finding the knees of tiny", "Judging the findings of tiny"}
COLLECT = {"Collecting the evaluations of tiny", "Collecting the costs of tiny"} | READ
REPORT = {"Writing the report of tiny"}
LLAMA_PLOTS = {
    "Plotting the curves of tiny-llama on tiny-perplexity",
    "Plotting the sparsity of the matrices of tiny-llama at its knees on tiny-perplexity",
}
BERT_PLOTS = {
    "Plotting the curves of tiny-bert on tiny-kind",
    "Plotting the sparsity of the matrices of tiny-bert at its knees on tiny-kind",
    "Plotting the finding tiny-finding",
}
PLOTS = LLAMA_PLOTS | BERT_PLOTS
WEIGHT_PLOTS = {"Plotting the statistics of the weights of tiny-bert", "Plotting how sparsity emerges in tiny-bert"}
LOSSES = {"Collecting the losses of pre-training of tiny"}
LOSS_PLOTS = {"Plotting the loss of the pre-training of tiny-bert"}
LAYERS = {"Collecting the sparsity of every matrix of tiny"}


def matching(jobs: set[str], *patterns: str) -> set[str]:
    return {job for job in jobs if any(re.match(pattern, job) for pattern in patterns)}


def test_second_run_has_nothing_to_do(clone: Any) -> None:
    assert clone.planned() == set()
    assert "Nothing to be done" in clone.run()


def test_a_copy_with_other_time_stamps_has_nothing_to_do(clone: Any) -> None:
    for path in clone.workflow.rglob("*.py"):
        path.touch()
    assert clone.planned() == set()


def test_adding_a_sparsity_runs_that_level_and_what_follows(clone: Any) -> None:
    clone.configure(lambda config: config["curves"][0]["sparsities"].append(0.45))
    expected = {
        "Pruning tiny-llama, final, to 0.450 by magnitude-global, seed 0",
        "Pruning tiny-llama, final, to 0.450 by magnitude-layer, seed 0",
        "Language modelling of tiny-llama, final, magnitude-global at 0.450 on tiny-perplexity, seed 0",
        "Language modelling of tiny-llama, final, magnitude-layer at 0.450 on tiny-perplexity, seed 0",
    }
    assert clone.planned() == expected | COLLECT | LAYERS | PLOTS | REPORT
    assert clone.executed() == expected | COLLECT | LAYERS | PLOTS | REPORT
    assert clone.planned() == set()


def test_removing_a_sparsity_computes_nothing_anew(clone: Any) -> None:
    clone.configure(lambda config: config["curves"][0]["sparsities"].remove(0.6))
    assert clone.planned() == COLLECT | LAYERS | PLOTS | REPORT


def test_adding_a_seed_keeps_the_others(clone: Any) -> None:
    clone.configure(lambda config: config["curves"][1]["seeds"].append(2))
    planned = clone.planned()
    assert matching(planned, "Fine-tuning", "Pruning") == {
        job
        for level in ("0.500", "0.900")
        for job in (
            f"Pruning tiny-bert, step000012, to {level} by random-global, seed 2",
            f"Fine-tuning tiny-bert, step000012, random-global at {level} on tiny-kind, seed 2",
            f"Fine-tuning tiny-bert, step000012, magnitude-global at {level} on tiny-kind, seed 2",
        )
    } | {"Fine-tuning tiny-bert, step000012, dense at 0.000 on tiny-kind, seed 2"}
    assert not matching(planned, "Pre-training", "Extracting", "Preparing", "Perplexity", "Measuring")


def test_changing_a_knee_setting_reads_the_knees_again(clone: Any) -> None:
    clone.configure(lambda config: config.update(knees={"tolerance": 0.05}))
    assert clone.planned() == READ | PLOTS | REPORT


def test_a_study_without_findings_judges_and_draws_none(clone: Any) -> None:
    clone.configure(lambda config: config.pop("findings"))
    assert clone.planned() == REPORT


def test_changing_a_label_only_plots_again(clone: Any) -> None:
    def rename(config: dict[str, Any]) -> None:
        config["registries"]["tasks"]["tiny-kind"]["label"] = "kind of text"

    clone.configure(rename)
    assert clone.planned() == BERT_PLOTS | REPORT


def test_the_order_of_keys_does_not_matter(clone: Any) -> None:
    def turn(config: dict[str, Any]) -> None:
        tasks = config["registries"]["tasks"]
        tasks["tiny-kind"] = dict(reversed(list(tasks["tiny-kind"].items())))

    clone.configure(turn)
    assert clone.planned() == set()


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (
            "essential_sparsity/pruning/selection.py",
            '    """Yield each matrix',
            '    # A remark.\n    """Yields each matrix',
        ),
        ("essential_sparsity/training/loop.py", "eps=1e-8", "eps  =  1e-8"),
        ("prune_weights.py", '"""Make the mask', '"""Makes the mask'),
    ],
)
def test_comments_and_formatting_do_not_count(clone: Any, module: str, old: str, new: str) -> None:
    clone.edit(module, old, new)
    assert clone.planned() == set()


def test_editing_what_carries_jobs_reruns_nothing_unless_it_says_so(clone: Any) -> None:
    clone.edit("essential_sparsity/errors.py", "To mend:", "What to do:")
    clone.edit("essential_sparsity/run/job.py", "Unexpected error in", "A strange error in")
    assert clone.planned() == set()
    clone.edit("essential_sparsity/planning/digests.py", "NUMBERS = 1", "NUMBERS = 2")
    planned = clone.planned()
    assert {"Pre-training tiny-bert", "Extracting tiny-llama, checkpoint final"} | COLLECT | PLOTS | REPORT <= planned


def test_editing_the_perplexity_reruns_perplexity(clone: Any) -> None:
    clone.edit("essential_sparsity/evaluation/perplexity.py", "_IGNORED = -100", "_IGNORED = -200")
    planned = clone.planned()
    assert len(matching(planned, "Language modelling of")) == 7
    assert planned == matching(planned, "Language modelling of") | COLLECT | PLOTS | REPORT


def test_editing_the_preparation_of_texts_prepares_them_again_and_evaluates(clone: Any) -> None:
    clone.edit("essential_sparsity/data/tokens.py", "_MOST_UNKNOWN = 0.5", "_MOST_UNKNOWN = 0.6")
    planned = clone.planned()
    assert len(matching(planned, "Preparing tiny-")) == 2
    evaluated = matching(planned, "Language modelling", "Fine-tuning")
    assert planned == matching(planned, "Preparing tiny-") | evaluated | COLLECT | PLOTS | REPORT


def test_a_new_rate_trains_again_on_the_same_inputs(clone: Any) -> None:
    clone.configure(lambda config: config["registries"]["tasks"]["tiny-kind"].update(learning_rate=0.02))
    planned = clone.planned()
    assert planned == matching(planned, "Fine-tuning") | COLLECT | PLOTS | REPORT


def test_editing_the_selection_reruns_pruning_and_what_follows(clone: Any) -> None:
    clone.edit("essential_sparsity/pruning/selection.py", "_MILLION = 1_000_000", "_MILLION = 2_000_000")
    planned = clone.planned()
    pruned = {job for job in matching(planned, "Language modelling", "Fine-tuning") if "dense" not in job}
    assert (len(matching(planned, "Pruning")), len(pruned)) == (12, 6 + 8)
    assert len(matching(planned, "Planning")) == 4  # of the global pools: one on the Llama, three on the BERT
    assert planned == matching(planned, "Planning", "Pruning") | pruned | COLLECT | LAYERS | PLOTS | REPORT


def test_editing_the_fine_tuning_reruns_fine_tuning(clone: Any) -> None:
    clone.edit("essential_sparsity/training/loop.py", "eps=1e-8", "eps=2e-8")
    planned = clone.planned()
    assert len(matching(planned, "Fine-tuning")) == 10
    assert planned == matching(planned, "Fine-tuning") | COLLECT | PLOTS | REPORT


def test_editing_the_plots_plots_again(clone: Any) -> None:
    clone.edit(
        "essential_sparsity/report/figures/style.py",
        "def apply_style() -> None:",
        "SPARE = 1\n\n\ndef apply_style() -> None:",
    )
    assert clone.planned() == PLOTS | WEIGHT_PLOTS | LOSS_PLOTS | REPORT


def test_editing_the_templates_writes_the_report_again(clone: Any) -> None:
    template = clone.workflow / "workflow" / "report" / "report.html.j2"
    template.write_text(template.read_text() + "<!-- end -->\n")
    assert clone.planned() == REPORT


def test_a_mistyped_target_is_refused_when_the_jobs_are_planned(clone: Any) -> None:
    result: subprocess.CompletedProcess[str] = clone.snakemake(
        "--dry-run", "results/masks/tiny-bert/step000012/magnitud-global/0/0.500.safetensors"
    )
    assert result.returncode != 0
    assert "MissingRuleException" in result.stdout + result.stderr


def test_another_study_shares_what_this_one_made(clone: Any) -> None:
    clone.configure(lambda config: config.update(study="another", title="Another title"))
    planned = {job.replace("another", "tiny") for job in clone.planned()}
    weights = {"Collecting the statistics of the weights of tiny", "Finding the change points of tiny"}
    assert planned == COLLECT | LAYERS | PLOTS | WEIGHT_PLOTS | LOSS_PLOTS | REPORT | weights | LOSSES


def test_keeping_further_steps_trains_again_and_measures_in_one_job(clone: Any) -> None:
    recipe = {"checkpoint_every": 2}
    clone.configure(lambda config: config["registries"]["models"]["tiny-bert"]["source"]["recipe"].update(recipe))
    planned = clone.planned()
    assert matching(planned, "Pre-training", "Measuring", "Extracting") == {
        "Pre-training tiny-bert", "Extracting tiny-bert, checkpoint step000012",
        "Measuring the weights of tiny-bert over its pre-training",
    }  # fmt: skip


def test_it_runs_in_folders_with_spaces_and_from_an_interpreter_below_one(fresh: Any, tmp_path: Path) -> None:
    environment = tmp_path / "an environment"
    environment.symlink_to(sys.prefix)
    work = fresh.work.rename(fresh.work.with_name("my work"))
    command = [
        str(environment / "bin" / "python"), "-m", "snakemake", "--snakefile", str(fresh.workflow / "Snakefile"),
        "--configfile", "study.yaml", "--cores", "2", "results/datasets/tiny-texts.parquet",
    ]  # fmt: skip
    assert all(" " in path for path in (str(fresh.workflow), str(work), command[0]))
    result = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (work / "results/datasets/tiny-texts.parquet").is_file()
