"""What a run needs, before it is rented: `python -m hpm_jax.plan`.

Read `compiled.py` first: the real step, compiled here for TPUs that are not here. `arithmetic.py`
counts what no compiler tells where the devices are GPUs.
"""

from hpm_jax.plan.machines import slice_of as slice_of
