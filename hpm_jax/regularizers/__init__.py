"""Regularizers of fine-tuning: further terms of its loss."""

from hpm_jax.regularizers.adversarial import VirtualAdversarial as VirtualAdversarial
from hpm_jax.regularizers.consistency import LabelConsistency as LabelConsistency
from hpm_jax.regularizers.counterfactual import Counterfactual as Counterfactual
from hpm_jax.regularizers.regularizer import Inputs as Inputs
from hpm_jax.regularizers.regularizer import Regularizer as Regularizer
