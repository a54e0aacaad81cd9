"""Mask strategies: each returns scores, and one routine converts them to masks."""

from hpm_jax.masking import attention as attention
from hpm_jax.masking import blocks as blocks
from hpm_jax.masking import content as content
from hpm_jax.masking import disjoint as disjoint
from hpm_jax.masking import hard as hard
from hpm_jax.masking import noise as noise
from hpm_jax.masking.selection import hidden_count as hidden_count
from hpm_jax.masking.selection import select as select
from hpm_jax.masking.strategy import Context as Context
from hpm_jax.masking.strategy import Strategy as Strategy

STRATEGIES = Strategy.plugs
