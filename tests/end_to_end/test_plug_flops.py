"""Operations of a step by formula against XLA's count, where plugs run networks of their own."""

import jax
import numpy as np
import pytest
from shipped_configs import load
from small import MAE, schedule, small_config
from small_weights import random_weights

from hpm_jax.benchmark import noise_batch
from hpm_jax.config import freeze
from hpm_jax.convert.weights import Architecture
from hpm_jax.convert.write import write_weights
from hpm_jax.run.build import build_flops, build_sharded_step
from hpm_jax.run.devices import all_devices
from hpm_jax.targets.fitted import write_arrays

ENCODER = Architecture((1, 4, 4), patch_size=4, channels=1, width=96, depth=3, heads=4)
FILE = "path='e.npz', mean=(0.5,), std=(0.5,)"
FROZEN = f"frozen({FILE})"
RANDOM = {"mask": {"strategy": "random"}, "losses": ()}
CASES = {
    "mae": MAE,
    "supervised": MAE | {"losses": ("supervised(classes=100)",)},
    "masked_frequencies": MAE | {"losses": ("masked_frequencies(radius=4.0)",)},
    "masked_frequencies_alone": MAE
    | {"losses": ("masked_frequencies(radius=4.0)",), "decoder": "no_decoder"},
    "visible": MAE | {"losses": ("visible(layers=2)",)},
    "distillation": MAE | {"losses": (f"distillation({FILE}, block=2, layers=1)",)},
    "token_relations": MAE | {"losses": (f"token_relations({FILE}, block=2)",)},
    "frozen_features": MAE | {"target": f"frozen_features({FILE})"},
    "codes": MAE
    | {"target": f"codes(path='codes.npz', of=\"frozen_features({FILE})\")"}
    | {"objective": "cross_entropy"},
    "frozen_target": RANDOM | {"target": "teacher_features", "teacher": FROZEN},
    "frozen_masks": {"mask": {"strategy": "attention"}, "losses": (), "teacher": FROZEN},
    "half view": {"teacher": "moving_average(view='half')"},
    "visible view in int8": {"teacher": "moving_average(view='visible', dtype='int8')"},
    "consistency": RANDOM
    | {"losses": ("global_consistency(width=64)",)}
    | {"mask": {"strategy": "disjoint", "views": 2}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the plugs name."""
    folder = tmp_path_factory.mktemp("encoders")
    write_weights(folder / "e.npz", random_weights(ENCODER), "timm")
    codebook = np.random.default_rng(0).normal(size=(50, 96)).astype(np.float32)
    write_arrays(folder / "codes.npz", codebook=codebook)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_flops_against_the_compiler(name, folder, monkeypatch):
    """XLA counts norms, softmax and the optimizer as well, so it may count a little more."""
    monkeypatch.chdir(folder)
    config = small_config(
        **CASES[name],
        model={"width": 96, "depth": 3, "heads": 4, "decoder_width": 64, "decoder_heads": 4},
        optimizer={"batch_size": 64},
    )
    parts = build_sharded_step(config, all_devices())
    inputs = noise_batch(parts.inputs).values()
    lowered = parts.step.lower(parts.state, *inputs, jax.random.key(0), schedule(n_hard=4))
    share = lowered.cost_analysis()["flops"] / 64 / build_flops(config).total
    assert 0.97 < share < 1.15, f"XLA counts {share:.3f} of the formula"


@pytest.mark.parametrize("variant", ["teacher=visible", "teacher=every_2"])
@pytest.mark.parametrize("size", ["B", "L"])
def test_a_step_of_the_cheap_recipe_costs_two_mae_steps_at_most(size, variant):
    """With the whole image in view in every step it costs 2.34."""
    mae, hpm, cheap = (
        build_flops(freeze(load("hpm_in1k", f"{size},{options}"))).total
        for options in ("method=mae", "method=hpm", variant)
    )
    assert 2.3 * mae < hpm < 2.4 * mae
    assert 1.5 * mae < cheap <= 2.0 * mae
