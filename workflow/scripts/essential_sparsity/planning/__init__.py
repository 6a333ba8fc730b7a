"""Planning: what jobs need, cost and rerun for.

In: a study, the code, what finished jobs cost. Out: resources, digests, the plan, the table of costs, the seal.

Doors: needs (one table of what rules need), digests (why a job reruns), jobs, plan, costs, seal.
"""
