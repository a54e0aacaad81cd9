"""The loss that the teacher predicts for a patch and the loss of the student, over a run.

The loss predictor learns on hidden patches, seen from a quarter of the image, and is asked about
patches that it sees (HPM's issue 1). This trains the arm `hpm` of a comparison, and asks its
teacher about test images on the way: with the whole image in view, and with parts of it, where each
patch is predicted while it is hidden. The answers are compared with the student's losses under
random masks, patch by patch: mean rank correlation of an image, and pairs in the right order.
Cheaper teachers are compared with the full one, too: what share of the half of all patches that it
calls hard they choose: in parts, in bfloat16, or three steps late, as with a teacher that runs
every fourth step. By chance it is a half.

    python -m benchmarks.mismatch --path /data/cifar10 --seeds 0 1 2 --out results/mismatch.json
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.comparison import comparison_on
from hpm_jax.compare.arms import arm_configs
from hpm_jax.compare.data import load_measured
from hpm_jax.compare.run import steps_of
from hpm_jax.compare.train import draw_batches, train_seeds
from hpm_jax.config.pretrain import Config
from hpm_jax.evaluation.rebuilding import fixed_mask
from hpm_jax.losses.ranking import pairs_ranked_correctly
from hpm_jax.masking.strategy import hardest
from hpm_jax.run.build import build_method, build_model
from hpm_jax.step.mask import run_network
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import Masked, student_pass
from hpm_jax.tasks.data import load_data

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
IMAGES = 2000
BATCH = 250
LATE = 3  # steps


def make_agreement(config: Config):
    """Builds `(state, uint8 images, first) -> numbers` of one batch."""
    model, whole = build_model(config), build_method(config)
    half = model.clone(dtype=jnp.bfloat16)
    parts = dataclasses.replace(whole, teacher=dataclasses.replace(config.teacher, view="parts"))
    blind = whole.at_random

    def agreement(
        state: TrainState, late: TrainState, images: Array, first: Array
    ) -> dict[str, Array]:
        patches = whole.patches(images)
        mask = fixed_mask(whole, state, patches, first)
        losses = student_pass(model, blind, state, state.params, Masked(patches, mask)).losses

        def asked(model: Any, method: Any, params: Any) -> Array:
            return run_network(model, method, params, patches)["predicted_loss"]

        full = asked(model, whole, state.teacher)
        cheaper = {
            "parts": asked(model, parts, state.teacher),
            "bfloat16": asked(half, whole, state.teacher),
            "late": asked(model, whole, late.teacher),
        }

        def hidden(values: Array) -> Array:
            return jnp.take_along_axis(values, mask.hide, axis=1)

        said = {
            "whole": hidden(full),
            "parts": hidden(cheaper["parts"]),
            "contrast": hidden(patches.std(axis=-1)),
        }
        found = {}
        for name, values in said.items():
            found[f"{name}_correlation"] = rank_correlation(values, losses)
            found[f"{name}_pairs"] = pairs_ranked_correctly(values, losses)
        chosen = {name: jax.lax.top_k(said[name], losses.shape[1] // 2)[1] for name in said}
        for name, index in chosen.items():  # what is gained by hiding the half that is said hard
            gained = jnp.take_along_axis(losses, index, axis=1).mean() / losses.mean()
            found[f"{name}_chosen_loss"] = gained
        chosen = {name: hardest(x, x.shape[1] // 2) for name, x in cheaper.items()}
        theirs = hardest(full, full.shape[1] // 2)
        return found | {
            f"{name}_agreement": (both & theirs).sum() / theirs.sum()
            for name, both in chosen.items()
        }

    return jax.jit(agreement)


def rank_correlation(a: Array, b: Array) -> Array:
    """Spearman's, of the columns of `[B, M]`, the mean over rows."""
    ranks = [jnp.argsort(jnp.argsort(x, axis=1), axis=1).astype(jnp.float32) for x in (a, b)]
    first, second = (x - x.mean(axis=1, keepdims=True) for x in ranks)
    products = (first * second).sum(axis=1)
    norms = jnp.linalg.norm(first, axis=1) * jnp.linalg.norm(second, axis=1)
    return (products / norms).mean()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True, help="folder of CIFAR-10")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("results/mismatch.json"))
    options = parser.parse_args()
    comparison = comparison_on(options.path)
    config = arm_configs(comparison)["hpm"]
    splits = load_data(comparison.base)
    pixels = load_measured(comparison, splits).test.pixels[:IMAGES]
    agreement = make_agreement(config)
    table = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in options.seeds:
        if str(seed) in table:
            continue
        steps = steps_of(config, len(splits.train))
        late = [share - LATE / steps for share in SHARES]
        batches = draw_batches(config, splits.train, (seed,), steps)
        shares = (*SHARES, *late)
        (trained,) = train_seeds(config, (seed,), batches, len(splits.train), shares, 25, print)
        rows = []
        for before, taken in zip(trained.snapshots[::2], trained.snapshots[1::2], strict=True):
            found = [
                agreement(taken.state, before.state, pixels[start : start + BATCH], start)
                for start in range(0, len(pixels), BATCH)
            ]
            mean = {name: float(np.mean([x[name] for x in found])) for name in found[0]}
            rows.append({"step": taken.step, **{k: round(v, 5) for k, v in mean.items()}})
            print(rows[-1], flush=True)
        table[str(seed)] = rows
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
