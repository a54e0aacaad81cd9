"""Patches that nobody can learn: does a mask that looks for hard patches fall for them?

Some patches of every training image become noise, at random places. Their loss stays high, so by
its definition HPM must hide them; reducible loss, what a slow teacher expects less what a fast one
expects, should not. Both are asked with the whole image in view, as HPM is, and with the image in
parts, where noise is hidden when its loss is predicted. For each arm this says which share of the
noise is hidden by the masks of test images (random masks: the mask ratio), over the run, and what
features of clean images are worth.

    python -m benchmarks.noisy_television --path /data/cifar10 --out results/noisy_television.json
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.comparison import comparison_on
from hpm_jax.compare.arms import arm_configs
from hpm_jax.compare.data import load_measured
from hpm_jax.compare.representation import make_encode, measure_representation
from hpm_jax.compare.run import steps_of
from hpm_jax.compare.train import draw_batches, train_seeds
from hpm_jax.run.build import build_method, build_model
from hpm_jax.step.mask import choose_mask
from hpm_jax.step.schedules import Schedule
from hpm_jax.tasks.data import load_data

ARMS = ("random", "hpm", "reducible", "hpm_parts", "reducible_parts")
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
PLANTED = 6  # of 64 patches
IMAGES = 1000
WHOLE = "moving_average(start=0.99, end=0.99)"
PARTS = "moving_average(start=0.99, end=0.99, view='parts')"


def arm(strategy: str, teacher: str) -> dict:
    """What an arm changes: half of the hidden patches are chosen at the end."""
    chosen = f"{strategy}(start=0.0, end=0.5, schedule='step')"
    return {"mask": {"strategy": chosen}, "losses": ("ranking",), "teacher": teacher}


MORE_ARMS = {
    "reducible": arm("reducible", WHOLE),
    "hpm_parts": arm("hard", PARTS),
    "reducible_parts": arm("reducible", PARTS),
}


def plant(images: np.ndarray, side: int, seed: int) -> np.ndarray:
    """Turns `PLANTED` patches of each image `[N, H, W, C]` into noise, in place: `[N, L]` bool."""
    rng = np.random.default_rng(seed)
    count, height, width, channels = images.shape
    rows, columns = height // side, width // side
    places = rng.random((count, rows * columns)).argsort(axis=1)[:, :PLANTED]
    planted = np.zeros((count, rows * columns), bool)
    np.put_along_axis(planted, places, True, axis=1)
    cut = images.reshape(count, rows, side, columns, side, channels)
    where = planted.reshape(count, rows, columns)
    image, row, column = np.nonzero(where)
    noise = rng.integers(0, 256, (len(image), side, side, channels), dtype=np.uint8)
    cut[image, row, :, column] = noise
    return planted


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True, help="folder of CIFAR-10")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("results/noisy_television.json"))
    options = parser.parse_args()
    comparison = comparison_on(options.path, **MORE_ARMS)
    configs = arm_configs(comparison)
    splits = load_data(comparison.base)
    measured = load_measured(comparison, splits)
    side = comparison.base.model.patch_size
    noisy = measured.test.pixels[:IMAGES].copy()
    planted = plant(noisy, side, seed=1)
    table = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in options.seeds:
        base = configs["random"]
        steps = steps_of(base, len(splits.train))
        batches = draw_batches(base, splits.train, (seed,), steps)
        images = batches["image"]
        plant(images.reshape(-1, *images.shape[3:]), side, seed)
        for name in ARMS:
            if f"{name}_{seed}" in table:
                continue
            config = configs[name]
            model, method = build_model(config), build_method(config)
            (trained,) = train_seeds(config, (seed,), batches, len(splits.train), SHARES, 25, print)
            half = Schedule(np.float32(0), np.float32(0), np.int32(method.hidden // 2))
            choose = jax.jit(
                lambda state, pixels, model=model, method=method, half=half: choose_mask(
                    model, method, state, method.patches(pixels), jax.random.key(7), half
                )
            )
            rows = []
            for taken in trained.snapshots:
                hide = np.asarray(choose(taken.state, jnp.asarray(noisy)).hide)
                hidden = float(np.take_along_axis(planted, hide, axis=1).sum() / planted.sum())
                rows.append({"step": taken.step, "noise_hidden": round(hidden, 4)})
                print(name, rows[-1], flush=True)
            params = trained.snapshots[-1].state.params
            encode = make_encode(model, method)
            correct = measure_representation(comparison, encode, params, measured, config.patches)
            clean = {key: round(float(bits.mean()), 4) for key, bits in correct.items()}
            table[f"{name}_{seed}"] = {"masks": rows, "clean": clean}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
