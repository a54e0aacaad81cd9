"""AdamW as masked autoencoders use it: clipped gradients, and no decay for biases and norms."""

import jax
import optax

from hpm_jax.training.state import Params

# Matrices and learned tokens decay; biases and norm scales do not (timm's rule, by name, because
# the parameters of scanned blocks carry one axis more than those that the rule speaks of).
DECAYED = ("kernel", "head_kernel", "cls_token", "mask_token")


def decay_mask(params: Params) -> Params:
    """True for every parameter that weight decay applies to."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)


def make_optimizer(
    b1: float, b2: float, eps: float, weight_decay: float, clip_norm: float | None
) -> optax.GradientTransformation:
    """AdamW but for the learning rate, which the step multiplies in: it is a traced scalar there.

    Args:
        clip_norm: the largest global norm of the gradient; None does not clip.
    """
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay, decay_mask),
    )
