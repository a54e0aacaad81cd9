"""Plans, made for the CPU's virtual devices: bytes, loops, arithmetic, search, and advice."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from small import MAE, parts_of, small_config

from hpm_jax.plan.advice import advice, choices, first_that_fits
from hpm_jax.plan.arithmetic import attention_bytes, computed_again, kept, temporaries
from hpm_jax.plan.compiled import Plan, make_plan
from hpm_jax.plan.largest import about, search, with_options
from hpm_jax.plan.machines import PlanError, devices_of, machine
from hpm_jax.plan.program import work
from hpm_jax.plan.table import table
from hpm_jax.run import devices as placement
from hpm_jax.step.step import Masked, masked_loss
from hpm_jax.tokens import Mask

EIGHT = machine("h100:8")


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


# --- what is compiled


def test_a_plan_counts_what_a_device_holds_and_sends():
    config = small_config(**(MAE | {"teacher": "moving_average"}), model={"depth": 6, "unroll": 1})
    params = parts_of(config).state.params
    found = make_plan(config, EIGHT, devices_of(EIGHT))
    assert found.fits and not found.compiled and found.devices == 8
    assert found.params == found.teacher == bytes_of(params)
    assert found.optimizer == bytes_of(parts_of(config).state.optimizer)
    assert found.needed > found.state + found.temporaries
    # every gradient once, also those in the loop over blocks
    assert 0.98 < found.collectives["all-reduce"][1] / bytes_of(params) < 1.02
    text = table(found, config, EIGHT, 0.4, images=1_000_000)
    assert "64, 8 a device" in text and "(arithmetic)" in text and "compiled for CPUs" in text


def test_sharded_parameters_take_less(monkeypatch):
    monkeypatch.setattr(placement, "SMALL", 8)
    config = small_config(**MAE, run={"fsdp": 4})
    whole = bytes_of(parts_of(small_config(**MAE)).state.params)
    found = make_plan(config, EIGHT, devices_of(EIGHT))
    # what is outside of the blocks is whole
    assert whole / 4 <= found.params < whole / 2.5
    assert found.collectives["all-gather"][0] >= 1
    with pytest.raises(PlanError, match=r"fsdp = 3 does not divide 8 devices"):
        make_plan(small_config(run={"fsdp": 3}), EIGHT, devices_of(EIGHT))


# --- what a program does


def test_traffic_is_what_xla_counts_and_loops_multiply_it():
    weights = jnp.zeros((64, 64))

    def body(x):
        return jnp.tanh(x @ weights) + x.sum(axis=0)

    def compiled(function):
        return jax.jit(function).lower(jnp.zeros((32, 64))).compile()

    once = compiled(body)
    loop = compiled(lambda x: jax.lax.fori_loop(0, 50, lambda _, x: body(x), x))
    traffic = work(once.as_text()).traffic
    assert traffic == pytest.approx(once.cost_analysis()["bytes accessed"], rel=0.01)
    assert work(loop.as_text()).traffic == pytest.approx(50 * traffic, rel=0.35)
    assert loop.cost_analysis()["bytes accessed"] < 5 * traffic, "XLA counts loops now"


PROGRAM = """
%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,16]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %a = f32[8,16]{1,0:T(8,128)S(1)} all-reduce(%x), channel_id=1, replica_groups={}
  %g1 = bf16[10]{0} fusion(%a), kind=kCustom, calls=%async_1
  %g2 = bf16[10]{0} fusion(%g1), kind=kCustom, calls=%async_2
  %s = bf16[5]{0} fusion(%g2), kind=kCustom, calls=%all-reduce-scatter.3, \
backend_config={"estimated_cycles":"7"}
  ROOT %t = (s32[], f32[8,16]) tuple(%i, %a)
}

%async_1 (q: f32[8,16]) -> bf16[10] {
  %q = f32[8,16]{1,0} parameter(0)
  ROOT %ag = bf16[10]{0} all-gather(%q), channel_id=2, dimensions={0}
}

%async_2 (r: bf16[10]) -> bf16[10] {
  %r = bf16[10]{0} parameter(0)
  ROOT %ag.2 = bf16[10]{0} all-gather(%r), channel_id=2, dimensions={0}
}

%all-reduce-scatter.3 (u: bf16[10]) -> bf16[5] {
  %u = bf16[10]{0} parameter(0)
  %v = bf16[10]{0} all-reduce(%u), channel_id=3
  ROOT %w = bf16[5]{0} dynamic-slice(%v), dynamic_slice_sizes={5}
}

%condition (p: (s32[], f32[8,16])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (z: f32[8,16]) -> f32[4] {
  %z = f32[8,16]{1,0} parameter(0)
  %loop = (s32[], f32[8,16]{1,0}) while(%z), condition=%condition, body=%body
  %b = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce-start(%z, %z), channel_id=4
  %c = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce-done(%b)
  %d = (f32[8,16]{1,0}, f32[16,16]{1,0}) all-gather-start(%z), channel_id=5, dimensions={0}
  ROOT %e = f32[16,16]{1,0} all-gather-done(%d)
}
"""


def test_collectives_are_read_from_the_program():
    assert work(PROGRAM).collectives == {
        "all-reduce": (12 + 1, 12 * 4 * 8 * 16 + 4 * 4 + 2 * 2 * 3),
        # two fusions of one channel are one collective; a start names its operand first
        "all-gather": (12 + 1, 12 * 2 * 10 + 4 * 16 * 16),
        "reduce-scatter": (12, 12 * 2 * 5),
    }
    assert work(PROGRAM).cycles == 12 * 7
    noted = PROGRAM.replace("body=%body", 'body=%body, known_trip_count":{"n":"5"}')
    assert work(noted).collectives["reduce-scatter"][0] == 5


def test_what_stays_on_the_chip_is_no_traffic():
    line = "  %y = f32[8,16]{1,0} negate(%z)\n"
    chip = line.replace("{1,0}", "{1,0:T(8,128)S(1)}")
    text = "ENTRY %main (z: f32[8,16]) -> f32[8,16] {\n  %z = f32[8,16]{1,0} parameter(0)\n"
    assert work(text + line + "}\n").traffic == 2 * 4 * 8 * 16
    assert work(text + chip + "}\n").traffic == 4 * 8 * 16


# --- arithmetic

WIDE = small_config(
    **MAE,
    data={"image_size": (32, 32)},
    model={"width": 64, "heads": 4, "depth": 4, "decoder_width": 32, "unroll": 1},
)


def with_remat(remat, depth=4):
    return dataclasses.replace(
        WIDE, model=dataclasses.replace(WIDE.model, remat=remat, depth=depth)
    )


@pytest.mark.parametrize("remat", ["none", "full"])
def test_what_is_kept_is_what_the_compiler_takes(remat):
    config, rows = with_remat(remat), 32
    parts = parts_of(config)
    patches = jax.ShapeDtypeStruct((rows, 64, 16), jnp.float32)
    mask = Mask(*(jax.ShapeDtypeStruct((rows, n), jnp.int32) for n in (16, 48)))
    loss = masked_loss(parts.model, parts.method, parts.state)
    gradient = jax.jit(jax.grad(lambda p, batch: loss(p, batch, None)[0]))
    compiled = gradient.lower(parts.state.params, Masked(patches, mask)).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes
    block = attention_bytes(config, rows) + computed_again(config, rows)
    assert 0.8 < (kept(config, rows) + block) / taken < 1.25


def test_what_a_block_keeps():
    rows, tokens, width, heads = 16, 17, 64, 4

    def block(remat):
        return kept(with_remat(remat, 5), rows) - kept(with_remat(remat, 4), rows)

    # its input; query, key and value, what they attend to and the middle; the hidden layer
    assert block("full") == rows * tokens * width * 4
    assert block("mlp") == rows * tokens * (6 * width + heads) * 4
    assert block("none") == rows * tokens * (10 * width + heads) * 4
    # the decoders, half as wide, have the most tokens: 65 with cls
    heads = with_remat("none").model.decoder_heads
    decoder = rows * 65 * (9 * 32 + heads) * 4
    assert computed_again(with_remat("full"), rows) == pytest.approx(decoder, rel=0.01)
    assert computed_again(with_remat("none"), rows) == 0
    assert attention_bytes(with_remat("none"), rows) == 3 * rows * heads * 65**2 * 4


def test_temporaries_follow_the_options():
    whole = temporaries(WIDE, 8)
    params = bytes_of(parts_of(WIDE).state.params)
    assert whole.kept == kept(WIDE, 8) and whole.gradients == params
    assert whole.patches == 8 * 64 * 16 * 4
    halved = temporaries(with_options(WIDE, accumulation=2, fsdp=4), 8)
    assert halved.kept == kept(WIDE, 4) and halved.patches == whole.patches
    assert halved.gradients == 2 * params // 4
    assert temporaries(with_options(WIDE, remat="full"), 8).block > whole.block


# --- the largest batch


def planned(config, memory, fits=None):
    """A plan of nothing but arithmetic."""
    counted, params = temporaries(config, 8).total, 10_000
    images = config.optimizer.batch_size * 32 * 32 // 8
    needed = 4 * params + images + counted
    fits = needed <= memory if fits is None else fits
    return Plan(
        *(8, memory, params, params, 2 * params, images, counted, needed),
        *(fits, True, 1e12, 0, {}),
    )


def test_the_largest_batch_by_arithmetic():
    config = with_options(WIDE, accumulation=2)
    plan = planned(config, memory=64 * 2**20)
    batch = about(config, plan)
    assert batch > config.optimizer.batch_size and batch % 16 == 0
    assert planned(with_options(config, batch_size=batch), plan.memory).fits
    assert not planned(with_options(config, batch_size=batch + 16), plan.memory).fits
    assert about(config, planned(config, memory=10_000)) == 0


@pytest.mark.parametrize(("factor", "first"), [(0.6, 16), (1.0, 64), (1.3, 4096)])
def test_the_largest_batch_by_compiling(factor, first):
    """A compiler that takes `factor` of the arithmetic, and a bit that does not grow."""
    memory, seen = 64 * 2**20, []

    def compile_at(config):
        plan = planned(config, memory)
        taken = int(factor * plan.temporaries) + 2**20
        needed = plan.needed - plan.temporaries + taken
        seen.append(config.optimizer.batch_size)
        return plan._replace(temporaries=taken, needed=needed, fits=needed <= memory)

    start = with_options(WIDE, batch_size=first)
    found = search(start, compile_at(start), compile_at, compiles=5)
    assert found.compiles == len(seen) - 1 <= 5
    assert found.refused == found.fits + 8, "nothing is left between them"
    assert compile_at(with_options(WIDE, batch_size=found.fits)).fits
    assert not compile_at(with_options(WIDE, batch_size=found.refused)).fits
    short = search(start, compile_at(start), compile_at, compiles=1)
    assert short.compiles == 1 and str(short).endswith("(compiled 1 more)")


# --- advice


def advised(config, memory):
    plan = planned(config, memory)
    assert not plan.fits
    return plan, first_that_fits(config, plan, choices(config, plan))


def test_advice_leads_to_a_fit():
    config = with_options(WIDE, batch_size=1024)
    plan, change = advised(config, memory=20 * 2**20)
    assert change.options == {"accumulation": 4} and change.fits
    followed = planned(with_options(config, **change.options), plan.memory)
    assert followed.fits and followed.needed == pytest.approx(change.needed, rel=1e-3)
    text = advice(config, plan)
    for option in ("dtype=bfloat16", "accumulation=4", "remat=full", "fsdp=8"):
        assert f"--config.{'run' if 'fsdp' in option else ''}" in text and option in text
    assert "MEM_FRACTION" not in text and "MEM_FRACTION" in advice(config, plan, gpu=True)


def test_advice_combines_where_nothing_is_enough_alone():
    config = with_options(WIDE, batch_size=1024)
    plan, change = advised(config, memory=7 * 2**20)
    assert change.fits and change.options == {"remat": "full", "accumulation": 8}
    assert planned(with_options(config, **change.options), plan.memory).fits
    assert "enough together: --config" in advice(config, plan)
    assert "nothing of that is enough" in advice(config, planned(config, memory=2**17))
