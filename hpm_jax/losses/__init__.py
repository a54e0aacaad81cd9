"""The training loss: objectives, and the terms of the loss."""

from hpm_jax.losses.alignment import DynamicAlignment as DynamicAlignment
from hpm_jax.losses.clustering import Clustering as Clustering
from hpm_jax.losses.consistency import GlobalConsistency as GlobalConsistency
from hpm_jax.losses.distillation import Distillation as Distillation
from hpm_jax.losses.fourier import Fourier as Fourier
from hpm_jax.losses.frequencies import MaskedFrequencies as MaskedFrequencies
from hpm_jax.losses.latent_alignment import LatentAlignment as LatentAlignment
from hpm_jax.losses.morphing import MorphedTokens as MorphedTokens
from hpm_jax.losses.multi_scale import MultiScale as MultiScale
from hpm_jax.losses.ranking import Absolute as Absolute
from hpm_jax.losses.ranking import Relative as Relative
from hpm_jax.losses.ranking import pairs_ranked_correctly as pairs_ranked_correctly
from hpm_jax.losses.reconstruction import Objective as Objective
from hpm_jax.losses.reconstruction import Reconstruction as Reconstruction
from hpm_jax.losses.reconstruction import squared_error as squared_error
from hpm_jax.losses.relations import TokenRelations as TokenRelations
from hpm_jax.losses.spread import Dispersive as Dispersive
from hpm_jax.losses.spread import SIGReg as SIGReg
from hpm_jax.losses.spread import VarianceCovariance as VarianceCovariance
from hpm_jax.losses.supervised import Supervised as Supervised
from hpm_jax.losses.term import Outputs as Outputs
from hpm_jax.losses.term import Term as Term
from hpm_jax.losses.visible import Visible as Visible
from hpm_jax.losses.whitening import INTL as INTL
from hpm_jax.losses.whitening import WhiteningMSE as WhiteningMSE
