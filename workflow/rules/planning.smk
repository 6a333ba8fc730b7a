"""What Snakemake asks again for every job although the answer never changes; included last."""

import inspect
from contextlib import suppress
from snakemake.common import overwrite_function_params
from snakemake.resources import Resource


def remember_parameters(functions):
    """Tell Snakemake what functions take: otherwise it inspects their signatures several times a job."""
    for function in functions:
        # What takes no attributes is inspected as before.
        with suppress(AttributeError, TypeError, ValueError):
            overwrite_function_params(function, inspect.signature(function).parameters)


remember_parameters([Resource.evaluate])
for each in workflow.rules:
    remember_parameters(value for value in each.params if callable(value))
    remember_parameters(
        resource._evaluator
        for resource in each.resources.values()
        if resource.is_evaluable()
    )

# Where a script lies in the cache of sources: otherwise its address is taken apart three times a job.
if hasattr(workflow.sourcecache, "_cache"):
    workflow.sourcecache._cache = cache(workflow.sourcecache._cache)
