"""What a study may read where its results are in object storage, and jobs see nothing but what they declare."""

from __future__ import annotations

from essential_sparsity.errors import UserError
from essential_sparsity.study import Study


class StudyElsewhere(Study):
    """A study as it is read where the user's own files are not: the main process has looked at them."""

    def _check_sources(self) -> None:
        pass


def check_study(study: Study) -> None:
    """Check that every job can run where the others do.

    A job that reads a file of the user's is one that Snakemake runs where it was started itself: right for what
    prepares rows or a checkpoint once, wrong for an evaluation.

    Raises:
        UserError: Evaluations read a local folder.
    """
    for task in study.used_tasks():
        if study.preparation(task) is None and study.dataset_of(task)["source"]["kind"] == "path":
            raise UserError(
                where=f"{study.where('datasets', study.tasks[task]['dataset'])}.source",
                found=f"a local folder, which every evaluation of the task '{task}' reads",
                expected="a source on the hub: with results in object storage, evaluations run on machines without it",
                mend="name the dataset's repository (`kind: hub`)",
            )
