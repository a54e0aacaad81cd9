"""Labels as inputs of whole steps: of the benchmark, of a plan and of a comparison of seeds."""

import numpy as np
from small import MAE, small_config
from test_supervised import SUPERVISED

from hpm_jax.benchmark import noise_batch
from hpm_jax.compare.train import draw_batches, train_seeds
from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.sources import SOURCES
from hpm_jax.plan.compiled import make_plan
from hpm_jax.plan.machines import devices_of, machine
from hpm_jax.run.build import batch_inputs, build_flops, build_method


def test_inputs_of_the_step():
    """Labels are an input only where a term reads them; benchmark and plan take them as well."""
    plain, labelled = (small_config(**MAE | {"losses": losses}) for losses in ((), SUPERVISED))
    assert list(batch_inputs(plain, build_method(plain))) == ["image"]
    inputs = batch_inputs(labelled, build_method(labelled))
    assert list(inputs) == ["image", "label"] and inputs["label"].shape == (64,)
    noise = noise_batch(inputs)
    assert noise["image"].any() and not noise["label"].any()
    eight = machine("h100:8")
    plans = [make_plan(config, eight, devices_of(eight)) for config in (plain, labelled)]
    assert plans[1].images - plans[0].images == 64 // 8 * 4
    assert plans[1].temporaries > plans[0].temporaries, "the second pass is kept, too"
    visible = small_config(**MAE | {"losses": ("supervised(view='visible')",)})
    costs = [build_flops(config).total for config in (plain, visible, labelled)]
    assert costs[0] <= costs[1] < costs[2]


def test_a_comparison_gives_labels_to_all_seeds():
    """Two seeds at once; the labels of each are those of its images."""
    config = small_config(
        **MAE | {"losses": ("supervised(classes=10, view='visible')",)},
        optimizer={"epochs": 1, "batch_size": 8, "warmup_epochs": 0.0},
    )
    records = SOURCES["digits"](config.data).train
    batches = draw_batches(config, records, (0, 1), 3)
    assert batches["label"].shape == (2, 3, 8)
    assert (batches["label"][0] != batches["label"][1]).any()
    first = next(train_batches(records, config))
    np.testing.assert_array_equal(batches["label"][0, 0], first["label"])
    trained = train_seeds(config, (0, 1), batches, 24, (1.0,), 2, lambda line: None)
    accuracies = [run.curve["supervised_accuracy"] for run in trained]
    assert np.isfinite(accuracies).all() and trained[0].steps == 3
