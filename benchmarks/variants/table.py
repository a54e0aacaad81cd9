"""The variants by name."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from benchmarks.variants import (
    attention,
    gelu,
    own_backward,
    precision,
    products,
    ranking,
    stacks,
)
from benchmarks.variants.restated import Params, Restated
from hpm_jax.losses.pairs import Pairs
from hpm_jax.losses.ranking import Relative, relative
from hpm_jax.step.method import Method
from hpm_jax.tokens import gather


class Subject(NamedTuple):
    """What a step is made of, as far as a variant may change it."""

    model: Any  # the package's, or what stands in for it
    method: Method
    donate: bool = True


class Variant(NamedTuple):
    """Another way to take a step."""

    change: Callable[[Subject], Subject]  # from the package's own
    same: bool = True  # whether the mathematics of the student stays as it is
    only_on: str = ""  # "tpu" or "gpu": runs nowhere else


def restated(**parts: Any) -> Callable[[Subject], Subject]:
    """The restated model with other parts."""
    return lambda subject: subject._replace(model=Restated(subject.model, **parts))


def package(**attributes: Any) -> Callable[[Subject], Subject]:
    """The package's own model with other attributes."""
    return lambda subject: subject._replace(model=subject.model.clone(**attributes))


def teacher(of: Callable[[Any], Any]) -> Callable[[Subject], Subject]:
    """The package's own model, but for the teacher."""
    return lambda subject: subject._replace(
        model=precision.WithTeacher(subject.model, of(subject.model))
    )


def embed_then_gather(model: Restated, params: Params, patches: Array, keep: Array | None) -> Array:
    """All patches are embedded, then the visible ones picked (the official order)."""
    positions = model.positions(model.sizes.width)
    tokens = model.dense(params["projection"], patches.astype(positions.dtype)) + positions
    return tokens if keep is None else gather(tokens, keep)


def whole_head(params: Params, tokens: Array) -> Array:
    """The loss head as it is written down: all values of a patch, then their mean."""
    return (tokens @ params["head_kernel"] + params["head_bias"]).mean(axis=-1)


@dataclasses.dataclass(frozen=True, repr=False)
class RankedBy(Relative):
    """The ranking loss of a config, in another form."""

    form: Callable[[Array, Array], Array] = relative

    def loss(self, predicted: Array, true: Array, pairs: Pairs, counted: Array | None) -> Array:
        """Over every pair of patches, all of which count."""
        assert counted is None
        return self.form(predicted, true)


def ranked_by(loss: Callable[[Array, Array], Array]) -> Callable[[Subject], Subject]:
    """Another form of the ranking loss."""

    def change(subject):
        terms = (RankedBy(form=loss) if x.name == "ranking" else x for x in subject.method.terms)
        return subject._replace(method=dataclasses.replace(subject.method, terms=tuple(terms)))

    return change


KEEPS_WEIGHTS = own_backward.keeps_weights(own_backward.rows)
BY_PRODUCT = own_backward.keeps_rows(own_backward.rows_by_product)
KEEPS_ALL = {"checkpoint": lambda body: body}  # autodiff decides
FUSED = {"split_heads": attention.split_fused, "join_heads": attention.join_transposed}

VARIANTS: dict[str, Variant] = {
    # the controls: nothing is changed, or nothing but the notation
    "package": Variant(lambda subject: subject),
    "restated": Variant(restated()),
    # two decoders, and the tokens that nobody reads
    "decoders_at_once": Variant(restated(decode=stacks.both_at_once)),
    "last_block_whole": Variant(restated(stack=stacks.last_block_whole)),
    # attention
    "attention_by_autodiff": Variant(restated(mix=attention.by_autodiff)),
    "attention_softmax": Variant(restated(mix=attention.softmax)),
    "attention_of_jax": Variant(restated(mix=attention.of_jax)),
    "attention_cudnn": Variant(package(attention="cudnn"), only_on="gpu"),
    "attention_pallas": Variant(package(attention="pallas"), only_on="tpu"),
    "attention_tokens_first": Variant(restated(attention=attention.tokens_first)),
    "attention_keeps_weights": Variant(restated(mix=KEEPS_WEIGHTS, **KEEPS_ALL)),
    "attention_summed_by_product": Variant(restated(mix=BY_PRODUCT)),
    "attention_half_scores": Variant(restated(mix=attention.half_scores)),
    "attention_flash": Variant(restated(mix=attention.flash), only_on="tpu"),
    "attention_splash": Variant(restated(mix=attention.splash), only_on="tpu"),
    "heads_fused": Variant(restated(**FUSED)),
    "products_elsewhere": Variant(
        lambda subject: subject._replace(model=products.AsElsewhere(subject.model)), only_on="cpu"
    ),
    "heads_by_one_product": Variant(restated(split_heads=attention.split_by_product)),
    # the scan over blocks
    "unroll_1": Variant(package(unroll=1)),
    "unroll_2": Variant(package(unroll=2)),
    "unroll_all": Variant(package(unroll=0)),
    # what the backward pass keeps
    "remat_mlp": Variant(package(remat="mlp")),
    "remat_full": Variant(package(remat="full")),
    "keeps_all": Variant(restated(**KEEPS_ALL)),
    "keeps_derivative_of_gelu": Variant(restated(**KEEPS_ALL, gelu=gelu.keeps_derivative)),
    # everything that was adopted, taken back
    "as_before": Variant(
        restated(**KEEPS_ALL, **FUSED, mix=attention.by_autodiff, stack=stacks.last_block_whole)
    ),
    # precision
    "bfloat16": Variant(package(dtype=jnp.bfloat16), same=False),
    "parameters_cast_once": Variant(restated(prepare=precision.cast_once), same=False),
    "teacher_bfloat16": Variant(teacher(lambda model: model.clone(dtype=jnp.bfloat16))),
    "teacher_int8": Variant(teacher(lambda model: model.computed_in("int8"))),
    # odd numbers of tokens, padded
    "padded_8": Variant(restated(stack=stacks.padded(8))),
    "padded_16": Variant(restated(stack=stacks.padded(16))),
    "padded_64": Variant(restated(stack=stacks.padded(64))),
    "padded_128": Variant(restated(stack=stacks.padded(128))),
    # the rest
    "no_donation": Variant(lambda subject: subject._replace(donate=False)),
    "embed_then_gather": Variant(restated(embed=embed_then_gather)),
    "whole_loss_head": Variant(restated(loss_head=whole_head)),
    "gelu_of_jax": Variant(restated(gelu=gelu.of_jax)),
    "gelu_tanh": Variant(restated(gelu=gelu.tanh), same=False),
    "ranking_whole_matrix": Variant(ranked_by(ranking.whole_matrix)),
    "ranking_triangle": Variant(ranked_by(ranking.triangle)),
}
