"""A log handler of Snakemake that writes what a dry run would start: a line of JSON for each job, to standard output.

Snakemake finds it by the package's name and place on the path (``--logger planner``); ``plan_study.py`` starts that
run. What Snakemake has to say besides goes to standard error.
"""

from __future__ import annotations

import json
import sys
from logging import WARNING, LogRecord
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent


class LogHandler(LogHandlerBase):
    """Writes jobs as JSON, warnings and errors as text."""

    def emit(self, record: LogRecord) -> None:
        """Write a record that is a job or a warning; of others nothing."""
        fields: dict[str, Any] = record.__dict__
        if fields.get("event") == LogEvent.JOB_INFO:
            job = {
                "threads": fields["threads"],
                "output": fields["output"],
                "resources": dict(fields["resources"].items()),
            }
            print(json.dumps({"rule": fields["rule_name"], **job}, default=str))
        elif record.levelno >= WARNING:
            print(record.getMessage(), file=sys.stderr)

    @property
    def writes_to_stream(self) -> bool:
        """It does, instead of Snakemake's own handler."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """It does not."""
        return False

    @property
    def has_filter(self) -> bool:
        """It chooses by itself."""
        return True

    @property
    def has_formatter(self) -> bool:
        """It formats by itself."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """It does not."""
        return False
