"""Variants of the step that claim the same mathematics have the same loss and gradients."""

import jax.numpy as jnp
import numpy as np
import pytest
from small import parts_of, schedule, small_config

from benchmarks.variants.measure import Bench, compile_step, deviation, outcome_of
from benchmarks.variants.precision import agreement, int8_dense
from benchmarks.variants.program import Cost, program_cost
from benchmarks.variants.table import VARIANTS, Subject


@pytest.fixture(scope="module")
def bench():
    config = small_config(model={"decoder_depth": 2}, optimizer={"batch_size": 4})
    parts = parts_of(config)
    subject = Subject(parts.model, parts.method)
    return Bench(config, subject, parts.state, parts.images, parts.key, schedule(n_hard=6))


def outcome(bench, name):
    subject = VARIANTS[name].change(bench.subject)
    return outcome_of(bench, subject, compile_step(bench, subject))


@pytest.fixture(scope="module")
def own(bench):
    return outcome(bench, "package")


@pytest.mark.parametrize("name", ["decoders_at_once", "as_before"])
def test_same_mathematics(bench, own, name):
    assert deviation(own, outcome(bench, name)) < 1e-4


def test_other_mathematics_is_seen(bench, own):
    assert not VARIANTS["gelu_tanh"].same
    assert deviation(own, outcome(bench, "gelu_tanh")) > 1e-4


def test_int8_is_exact_for_what_eight_bits_hold():
    rng = np.random.default_rng(0)
    kernel, x = rng.integers(-126, 127, (8, 3)), rng.integers(-126, 127, (2, 5, 8))
    kernel[0], x[..., 0] = 127, -127
    params = {"kernel": jnp.float32(kernel / 16), "bias": jnp.float32([1.0, 2.0, 3.0])}
    expected = (x / 8) @ (kernel / 16) + [1.0, 2.0, 3.0]
    np.testing.assert_allclose(int8_dense(params, jnp.float32(x / 8)), expected, rtol=1e-6)


def test_agreement_counts_the_hardest():
    reference = jnp.float32([[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]])
    other = jnp.float32([[4, 0, 1, 2, 3], [0, 1, 2, 4, 3]])
    assert float(agreement(reference, other, 2)) == 0.75


PROGRAM = """
%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[]{:T(128)}, f32[8]{0:T(8)}) parameter(0)
  %item = f32[8]{0:T(8)} get-tuple-element(%state), index=1
  %near = f32[8]{0:T(8)S(1)} copy(%item), backend_config={"estimated_cycles":"7"}
  ROOT %next = (s32[]{:T(128)}, f32[8]{0:T(8)}) tuple(%item, %item)
}
%condition (state: (s32[], f32[8])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[8]{0:T(8)}) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%state, %limit), direction=LT
}
%slices (stack: bf16[12,8], index: s32[]) -> bf16[1,8] {
  %stack = bf16[12,8]{1,0:T(8,128)} parameter(0)
  %index = s32[]{:T(128)} parameter(1)
  ROOT %one = bf16[1,8]{1,0:T(8,128)} dynamic-slice(%stack, %index), dynamic_slice_sizes={1,8}
}
ENTRY %main (start: (s32[], f32[8]), stack: bf16[12,8], index: s32[]) -> bf16[1,8] {
  %start = (s32[]{:T(128)}, f32[8]{0:T(8)}) parameter(0)
  %stack = bf16[12,8]{1,0:T(8,128)} parameter(1)
  %index = s32[]{:T(128)S(1)} parameter(2)
  %loop = (s32[]{:T(128)}, f32[8]{0:T(8)}) while(%start), condition=%condition, body=%body
  ROOT %slice = bf16[1,8]{1,0:T(8,128)} fusion(%stack, %index), kind=kLoop, calls=%slices, \
backend_config={"estimated_cycles":"5"}
}
"""


def test_a_loop_costs_as_often_as_it_runs():
    # the copy reads 32 bytes from outside, twelve times; the slice reads and writes 16
    assert program_cost(PROGRAM) == Cost(cycles=12 * 7 + 5, traffic=12 * 32 + 2 * 16)
