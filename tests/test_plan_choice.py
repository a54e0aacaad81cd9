"""The choice between ways to compute the same step, with a stand-in for the compiler."""

import jax
import pytest
from small import small_config

from hpm_jax.config import ConfigError
from hpm_jax.plan.choice import choose
from hpm_jax.plan.compiled import Plan
from hpm_jax.plan.machines import GIB, PlanError, check_described, devices_of, machine

H100, V5E = machine("h100:8"), machine("v5e:2x2")
CONFIG = small_config(model={"unroll": 2, "attention": "auto"})


def chosen(costs, on=H100):
    """The attention and unroll that are chosen, and the lines that are shown.

    Args:
        costs: by attention and unroll, GiB needed and moved of 10 GiB; None for a refusal.
    """
    lines = []

    def compile_for(config):
        cost = costs[config.model.attention, config.model.unroll]
        if cost is None:
            raise ConfigError(f"no {config.model.attention} here")
        needed, traffic = (n * GIB for n in cost)
        sizes = 10 * GIB, 0, 0, 0, 0, needed, needed
        return Plan(8, *sizes, needed <= 10 * GIB, True, 1e12, traffic, {})

    config, plan = choose(CONFIG, on, compile_for, lines.append)
    assert plan.needed == costs[config.model.attention, config.model.unroll][0] * GIB
    return (config.model.attention, config.model.unroll), lines


def test_the_least_traffic_of_those_that_fit():
    costs = {("xla", 1): (4, 90), ("xla", 0): (6, 70), ("cudnn", 1): (4, 60)}
    found, lines = chosen(costs | {("cudnn", 0): (12, 50)})
    assert found == ("cudnn", 1) and len(lines) == 1 + 4 + 1
    assert "does not fit" in lines[4] and "attention=cudnn, unroll=0" in lines[4]
    flags = "--config.model.attention=cudnn --config.model.unroll=1"
    assert lines[-1].startswith(f"{flags}: the least traffic")
    assert chosen(costs | {("cudnn", 0): (9, 50)})[0] == ("cudnn", 0)


def test_the_least_memory_where_none_fits():
    costs = {("xla", 1): (14, 90), ("xla", 0): (16, 70), ("cudnn", 1): (13, 80)}
    found, lines = chosen(costs | {("cudnn", 0): (15, 50)})
    assert found == ("cudnn", 1) and "none fits, this needs the least memory" in lines[-1]


def test_what_is_refused_is_shown_with_the_reason():
    costs = {("xla", 1): (4, 90), ("xla", 0): (6, 70), ("cudnn", 1): None, ("cudnn", 0): None}
    found, lines = chosen(costs)
    assert found == ("xla", 0)
    assert all(line.endswith("refused: no cudnn here") for line in lines[3:5])
    with pytest.raises(ConfigError, match="no xla here"):
        chosen(dict.fromkeys(costs))


def test_blocks_stay_as_they_are_on_tpus():
    found, lines = chosen({("xla", 2): (4, 90), ("pallas", 2): (4, 80)}, on=V5E)
    assert found == ("pallas", 2) and len(lines) == 4
    assert lines[-1].startswith("--config.model.attention=pallas: ")


def test_nothing_is_chosen_for_devices_that_stand_in():
    assert jax.default_backend() == "cpu"
    message = r"--topology t4:8 has no compiler here: .* a100-40, .* install 'jax\[cuda13\]'"
    with pytest.raises(PlanError, match=message):
        check_described(machine("t4:8"), devices_of(machine("t4:8")))
