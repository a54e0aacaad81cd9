"""What training minimises: reconstruction objectives, and the ranking of patch losses."""

from hpm_jax.losses.ranking import RANKING_LOSSES as RANKING_LOSSES
from hpm_jax.losses.ranking import pairs_ranked_correctly as pairs_ranked_correctly
from hpm_jax.losses.reconstruction import squared_error as squared_error
