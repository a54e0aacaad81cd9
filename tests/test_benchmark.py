"""The benchmark's numbers fit together; how large they are depends on the machine."""

import pytest
from small import small_config

from hpm_jax.benchmark import benchmark, table


def test_numbers_fit_together():
    config = small_config(optimizer={"batch_size": 64, "accumulation": 2})
    numbers = benchmark(config, steps=2, pipeline=True)
    shares = [value for name, value in numbers.items() if name.startswith("share/")]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1)
    rate = numbers["batch_size"] / numbers["step_seconds"]
    assert numbers["images_per_second"] == pytest.approx(rate)
    assert numbers["state_bytes"] > 4 * 10_000 and numbers["pipeline/images_per_second"] > 0
    assert 0 <= numbers["pipeline/data_wait"] <= 1
    lines = table(numbers).splitlines()
    assert len(lines) == len(numbers) and any("%" in line for line in lines)
