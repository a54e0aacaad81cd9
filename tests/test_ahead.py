"""Functions that are compiled in threads: once, and the errors of the compiler reach the caller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.run.ahead import compile_ahead, compiler_threads
from hpm_jax.run.devices import all_devices


@pytest.fixture
def threads():
    with compiler_threads() as threads:
        yield threads


@pytest.fixture
def compiled():
    """The names of the events of JAX's compiler."""
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    yield lambda: sum(name.endswith("backend_compile_duration") for name in events)
    jax.monitoring.clear_event_listeners()


def test_a_call_finds_what_a_thread_has_compiled(threads, compiled):
    devices = all_devices()
    function = jax.jit(lambda x, scale: jnp.tanh(x) * scale, out_shardings=devices.replicated)
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    shape = jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=devices.batch)
    ahead = compile_ahead(threads, function, shape, 0)
    placed = devices.put_whole(rows)
    ahead(placed, 0)
    before = compiled()
    assert before >= 1
    np.testing.assert_allclose(ahead(placed, 2), np.tanh(rows) * 2, rtol=1e-6)
    assert compiled() == before, "another value is no reason to compile again"
    np.testing.assert_allclose(ahead(placed[:4], 1), np.tanh(rows[:4]), rtol=1e-6)
    assert compiled() > before, "other shapes are"


def test_errors_of_the_compiler_reach_the_caller(threads):
    class Refused:
        def lower(self, *arguments):
            return self

        def compile(self):
            raise MemoryError("too large")

    ahead = compile_ahead(threads, Refused())
    with pytest.raises(MemoryError, match="too large"):
        ahead()
