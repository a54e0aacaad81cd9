"""Estimates memory and time of a run before renting hardware: `python -m hpm_jax.plan`.

Read `compiled.py` first: it compiles the real step for TPUs that are not present. `arithmetic.py`
estimates what no compiler reports for GPUs.
"""

from hpm_jax.plan.machines import slice_of as slice_of
