"""Plans of segmentation, for virtual devices: what a device holds, and the estimate."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from hpm_jax.config import ConfigError, defaults, freeze
from hpm_jax.plan.advice import advice
from hpm_jax.plan.arithmetic import temporaries
from hpm_jax.plan.compiled import make_plan
from hpm_jax.plan.largest import about, with_options
from hpm_jax.plan.machines import devices_of, machine
from hpm_jax.plan.table import table
from hpm_jax.run.devices import Devices
from hpm_jax.run.prepared import prepare

EIGHT = machine("h100:8")


def segmentation(**data):
    config = defaults("segment")
    config.init_from = "not read"
    config.data.update(**({"classes": 20, "image_size": (64, 64)} | data))
    config.model.update(patch_size=8, width=32, depth=2, heads=2)
    config.decoder = "upernet(channels=16)"
    config.optimizer.batch_size = 16
    return freeze(config)


def test_a_plan():
    config = segmentation()
    found = make_plan(config, EIGHT, devices_of(EIGHT))
    assert found.fits and found.teacher == 0 and found.flops > 0
    # images of 8 bits and label maps of 16; AdamW has two moments and a counter
    assert found.images == 2 * 64 * 64 * (3 + 2)
    assert found.optimizer == pytest.approx(2 * found.params, abs=8)
    assert found.collectives["all-reduce"][1] > found.params
    text = table(found, config, EIGHT, 0.4, images=20_210)
    assert "16, 2 a device" in text and "(arithmetic)" in text
    assert about(config, found) > 16
    refused = advice(config, found._replace(memory=1))
    assert "--config.model.dtype=bfloat16" in refused


def test_the_estimate_is_close_to_a_compiler():
    """XLA for CPUs, all optimisations but the costly ones: no more than the estimate by a third."""
    config = segmentation()
    one = np.array(jax.devices()[:1]).reshape(1, 1)
    devices = Devices(Mesh(one, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2))
    parts = prepare(config, devices)
    schedule = parts.timetable(16).at(0)
    lowered = parts.step.lower(parts.state, *parts.inputs.values(), jax.random.key(0), schedule)
    used = lowered.compile().memory_analysis().temp_size_in_bytes
    assert 0.6 < temporaries(config, 1).total / used < 1.5
    halved = temporaries(with_options(config, accumulation=2), 1)
    assert halved.activations == temporaries(config, 1).activations / 2


def test_the_number_of_classes_has_to_be_given():
    with pytest.raises(ConfigError, match=r"config.data.classes = 0 takes the number of classes f"):
        make_plan(segmentation(classes=0), EIGHT, devices_of(EIGHT))
