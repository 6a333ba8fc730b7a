"""What is plotted of a study: the figures of each kind, which rules of report.smk draw."""

from essential_sparsity.report.figures.kinds import KINDS


def used_methods():
    """Return what plots call the study's methods; their order gives each its colour in all figures."""
    used = {e.method for e in study.evaluations}
    return {
        name: method.label for name, method in study.methods.items() if name in used
    }


def models_and_tasks(study, *, dense):
    """Return the pairs of model and task that a study evaluates; without the dense model, those that it prunes."""
    return {
        (e.model, e.task) for e in study.evaluations if dense or e.method != "dense"
    }


def settings_of_model(wildcards):
    """Return the settings of a figure of one model."""
    return {"model": wildcards.model}


def settings_of_task(wildcards):
    """Return the settings of a figure of one model's methods on one task."""
    return {
        "model": wildcards.model,
        "task_label": study.tasks[wildcards.task].label,
        "method_labels": used_methods(),
    }


# Of each kind of figure: a function of the study that returns the axes of all its figures, and one of the wildcards that
# returns what the function that draws it is told besides its tables.
PLOTS = {
    "curves": (
        lambda study: sorted(models_and_tasks(study, dense=True)),
        lambda wildcards: settings_of_task(wildcards)
        | {"settings": study.config["knees"]},
    ),
    "layers": (
        lambda study: sorted(models_and_tasks(study, dense=False)),
        lambda wildcards: settings_of_task(wildcards) | {"rule": study.knees.rules[0]},
    ),
    "weights": (
        lambda study: sorted({(model,) for model, _ in study.weights}),
        settings_of_model,
    ),
    "similarities": (
        lambda study: sorted({(pair.model,) for pair in study.mask_pairs()}),
        lambda wildcards: settings_of_model(wildcards)
        | {"method_labels": used_methods()},
    ),
    "losses": (
        lambda study: [(model,) for model in study.pretrained_models()],
        lambda wildcards: settings_of_model(wildcards)
        | {"objective": study.recipe(wildcards.model).objective},
    ),
    "emergence": (
        lambda study: [(model,) for model in study.changing_models()],
        settings_of_model,
    ),
    "ages": (
        lambda study: study.ageing(),
        lambda wildcards: settings_of_task(wildcards) | {"rule": study.knees.rules[0]},
    ),
    "findings": (
        lambda study: list(dict.fromkeys((claim.finding,) for claim in study.claims)),
        lambda wildcards: {
            "claims": [
                plain(c) for c in study.claims if c.finding == wildcards.finding
            ],
            "last": last_checkpoints(study),
            "methods": used_methods(),
            "tasks": {name: study.tasks[name].label for name in study.used_tasks()},
        },
    ),
}


def plot_paths(study):
    """Return all figures of a study, without those that it has no data for."""
    return [
        f"results/studies/{study.name}/plots/{kind}/{'/'.join(names)}.svg"
        for kind in KINDS
        for names in PLOTS[kind][0](study)
    ]


def settings_of(kind):
    """Return the function that gives a figure's settings as a parameter."""
    return lambda wildcards: canonical(PLOTS[kind][1](wildcards))
