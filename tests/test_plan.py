"""Plans, made for the CPU's virtual devices: bytes, collectives, and advice."""

import jax
import pytest
from small import parts_of, small_config

from hpm_jax import plan as module
from hpm_jax.plan import Plan, PlanError, advice, chips, collectives, make_plan, slice_of, table
from hpm_jax.training import devices as placement


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_a_plan_counts_what_a_device_holds():
    config = small_config()
    state = parts_of(config).state
    found = make_plan(config, jax.devices(), memory=module.GIB)
    assert found.fits and found.devices == 8
    assert found.params == found.teacher == bytes_of(state.params)
    assert found.optimizer == bytes_of(state.optimizer)
    assert found.needed >= found.params + found.teacher + found.optimizer
    assert found.collectives["all-reduce"][0] >= 1, "gradients are summed over the devices"
    text = table(found, config, "v5e:2x4", 0.4, images=1_000_000)
    assert "8 a device" in text and "largest batch" in text


def test_sharded_parameters_take_less(monkeypatch):
    monkeypatch.setattr(placement, "SMALL", 8)
    config = small_config(run={"fsdp": 4})
    whole = bytes_of(parts_of(small_config()).state.params)
    found = make_plan(config, jax.devices(), memory=module.GIB)
    assert whole / 4 <= found.params < whole / 3
    assert found.collectives["all-gather"][0] >= 1
    with pytest.raises(PlanError, match=r"fsdp = 3 does not divide 8 devices"):
        make_plan(small_config(run={"fsdp": 3}), jax.devices(), memory=module.GIB)


def test_collectives_are_read_from_the_program():
    program = """
      %a = f32[8,16]{1,0} all-reduce(%x), replica_groups={}
      %b = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce-start(%y, %z)
      %c = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce-done(%b)
      %d = bf16[10]{0} all-gather(%w), dimensions={0}
    """
    assert collectives(program) == {
        "all-reduce": (2, 4 * 8 * 16 + 4 * 4 + 2 * 2 * 3),
        "all-gather": (1, 20),
    }


def test_advice_where_it_does_not_fit():
    config = small_config()
    gib = module.GIB
    plan = Plan(4, 16 * gib, 3 * gib, 3 * gib, 6 * gib, 28 * gib, 40 * gib, False, 1e15, 0.0, {})
    text = advice(plan, config)
    for option in ("dtype=bfloat16", "accumulation=2", "remat=full", "fsdp=4"):
        assert f"--config.{'run' if 'fsdp' in option else ''}" in text and option in text
    assert "does not fit" in table(plan, config, "v5e:2x2", 0.4, images=1000)


@pytest.mark.parametrize("topology", ["v9:4x4", "v5e", "v5e:four", "h100:8"])
def test_slices_that_do_not_exist(topology):
    with pytest.raises(PlanError, match="is no TPU slice"):
        slice_of(topology)


def test_chips_of_a_slice():
    assert chips("v5e:4x4") == 16 and chips("v4:2x2x2") == 8
