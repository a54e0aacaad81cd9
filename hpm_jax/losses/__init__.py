"""What training minimises: objectives, and the terms of the loss."""

from hpm_jax.losses.ranking import Absolute as Absolute
from hpm_jax.losses.ranking import Relative as Relative
from hpm_jax.losses.ranking import pairs_ranked_correctly as pairs_ranked_correctly
from hpm_jax.losses.reconstruction import Objective as Objective
from hpm_jax.losses.reconstruction import Reconstruction as Reconstruction
from hpm_jax.losses.reconstruction import squared_error as squared_error
from hpm_jax.losses.term import Outputs as Outputs
from hpm_jax.losses.term import Term as Term
