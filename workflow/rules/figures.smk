"""What is plotted of a study: the kinds of figures, which rules of report.smk draw."""


def used_methods():
    """Return what plots call the study's methods; their order gives each its colour in all figures."""
    used = {e.method for e in study.evaluations}
    return {
        name: label for name, label in study.labels("methods").items() if name in used
    }


def models_and_tasks(study, *, dense):
    """Return the pairs of model and task that a study evaluates; without the dense model, those that it prunes."""
    return {
        (e.model, e.task) for e in study.evaluations if dense or e.method != "dense"
    }


def of_model(wildcards):
    """Return the settings of a figure of one model."""
    return {"model": wildcards.model}


def of_task(wildcards):
    """Return the settings of a figure of one model's methods on one task."""
    return {
        "model": wildcards.model,
        "task_label": study.tasks[wildcards.task]["label"],
        "method_labels": used_methods(),
    }


# Each kind of figure, by the name of its folder:
# category: Its heading in Snakemake's own report.
# labels: What tells its figures apart, there and by their paths; of each table a figure has the rows that are its own.
# drawn: Function of the study; returns the labels of all figures.
# tables: The tables of the study that it is drawn of, by the parameters of the function that draws it.
# settings: Function of the wildcards; returns the other parameters of that function.
# message: What is plotted, in words.
PLOTS = {
    "curves": {
        "category": "Curves",
        "labels": {"model": "{model}", "task": "{task}"},
        "drawn": lambda study: sorted(models_and_tasks(study, dense=True)),
        "tables": {"evaluations": "evaluations", "knees": "knees", "bands": "curves"},
        "settings": lambda wildcards: of_task(wildcards)
        | {"settings": study.config["knees"]},
        "message": "the curves of {wildcards.model} on {wildcards.task}",
    },
    "layers": {
        "category": "Matrices",
        "labels": {"model": "{model}", "task": "{task}"},
        "drawn": lambda study: sorted(models_and_tasks(study, dense=False)),
        "tables": {"layers": "layers", "knees": "knees"},
        "settings": lambda wildcards: of_task(wildcards)
        | {"rule": study.config["knees"]["rules"][0]},
        "message": "the sparsity of the matrices of {wildcards.model} at its knees on {wildcards.task}",
    },
    "weights": {
        "category": "Weights",
        "labels": {"model": "{model}"},
        "drawn": lambda study: sorted({(model,) for model, _ in study.weights}),
        "tables": {"weights": "weights"},
        "settings": of_model,
        "message": "the statistics of the weights of {wildcards.model}",
    },
    "similarities": {
        "category": "Masks",
        "labels": {"model": "{model}"},
        "drawn": lambda study: sorted({(pair.model,) for pair in study.mask_pairs()}),
        "tables": {"similarities": "similarities"},
        "settings": lambda wildcards: of_model(wildcards)
        | {"method_labels": used_methods()},
        "message": "the similarity of the masks of {wildcards.model}",
    },
    "losses": {
        "category": "Pre-training",
        "labels": {"model": "{model}"},
        "drawn": lambda study: [(model,) for model in study.pretrained_models()],
        "tables": {"losses": "losses"},
        "settings": lambda wildcards: of_model(wildcards)
        | {"objective": study.recipe(wildcards.model)["objective"]},
        "message": "the loss of the pre-training of {wildcards.model}",
    },
    "emergence": {
        "category": "Emergence",
        "labels": {"model": "{model}"},
        "drawn": lambda study: [(model,) for model in study.changing_models()],
        "tables": {
            name: name for name in ("weights", "trajectories", "histograms", "changes")
        },
        "settings": of_model,
        "message": "how sparsity emerges in {wildcards.model}",
    },
    "ages": {
        "category": "Ages",
        "labels": {"model": "{model}", "task": "{task}"},
        "drawn": lambda study: study.ageing(),
        "tables": {"evaluations": "evaluations", "knees": "knees"},
        "settings": lambda wildcards: of_task(wildcards)
        | {"rule": study.config["knees"]["rules"][0]},
        "message": "the knees of {wildcards.model} on {wildcards.task} over its pre-training",
    },
    "findings": {
        "category": "Findings",
        "labels": {"finding": "{finding}"},
        "drawn": lambda study: list(
            dict.fromkeys((claim["finding"],) for claim in study.claims)
        ),
        "tables": {"findings": "findings", "curves": "curves", "knees": "knees"},
        "settings": lambda wildcards: {
            "claims": [c for c in study.claims if c["finding"] == wildcards.finding],
            "last": last_checkpoints(study),
            "methods": used_methods(),
            "tasks": {name: study.tasks[name]["label"] for name in study.used_tasks()},
        },
        "message": "the finding {wildcards.finding}",
    },
}


def plot_paths(study):
    """Return all figures of a study, without those that it has no data for."""
    return [
        f"results/studies/{study.name}/plots/{kind}/{'/'.join(names)}.svg"
        for kind, plot in PLOTS.items()
        for names in plot["drawn"](study)
    ]


def settings_of(plot):
    """Return the function that gives a figure's settings as a parameter."""
    return lambda wildcards: canonical(plot["settings"](wildcards))
