"""Where compiled programs are kept, and when they are not."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from hpm_jax.errors import ConfigError
from hpm_jax.run import compilation_cache
from hpm_jax.run.compilation_cache import (
    default_folder,
    has_run,
    is_safe,
    remember,
    use_compilation_cache,
)

FOLDER, SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A home without programs; what a test turns on is turned off."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compilation_cache, "_cpu", lambda: "AuthenticAMD")
    seconds = jax.config.values[SECONDS]
    jax.config.update(FOLDER, None)
    jax_cache.reset_cache()
    yield
    jax.config.update(FOLDER, None)
    jax.config.update(SECONDS, seconds)
    jax_cache.reset_cache()


def test_programs_are_kept_for_the_next_run(monkeypatch):
    monkeypatch.setattr(compilation_cache, "MIN_SECONDS", 0.0)
    use_compilation_cache("auto")
    hits = []
    jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
    for _ in range(2):
        jax.clear_caches()
        jax.jit(lambda x: jnp.cumsum(x * 3))(jnp.arange(7.0))
    jax.monitoring.clear_event_listeners()
    assert hits.count("/jax/compilation_cache/cache_hits") >= 1
    assert any(file.name.startswith("jit__lambda") for file in default_folder().iterdir())
    assert default_folder().stat().st_mode & 0o077 == 0, "whoever writes there can run code"


def test_off_a_folder_and_what_was_set_before(tmp_path):
    use_compilation_cache("off")
    assert jax.config.values[FOLDER] is None and not default_folder().exists()
    use_compilation_cache(str(tmp_path / "named"))
    assert jax.config.values[FOLDER] == str(tmp_path / "named")
    use_compilation_cache("auto")
    assert jax.config.values[FOLDER] == str(tmp_path / "named")


def test_not_where_it_is_not_safe(monkeypatch):
    assert is_safe()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert not is_safe()
    monkeypatch.undo()
    monkeypatch.setattr(compilation_cache, "_cpu", lambda: "vendor_id : GenuineIntel")
    assert not is_safe()
    use_compilation_cache("auto")
    assert jax.config.values[FOLDER] is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert is_safe()


def test_each_kind_of_cpu_has_its_own_folder(monkeypatch):
    one = default_folder()
    monkeypatch.setattr(compilation_cache, "_cpu", lambda: "AuthenticAMD avx512f")
    assert default_folder() != one and default_folder().parent == one.parent


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"compilation_cache = .*file/in.* cannot be written"):
        use_compilation_cache(str(tmp_path / "file" / "in"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    use_compilation_cache("auto")  # a default is no reason to end a run
    assert jax.config.values[FOLDER] is None


def test_the_oldest_programs_are_deleted(monkeypatch):
    monkeypatch.setattr(compilation_cache, "MOST_BYTES", 25)
    default_folder().mkdir(parents=True)
    for age, name in enumerate(("new", "middle", "old")):
        (default_folder() / name).write_bytes(bytes(10))
        os.utime(default_folder() / name, (1e9 - age, 1e9 - age))
    use_compilation_cache("auto")
    assert {file.name for file in default_folder().iterdir()} == {"new", "middle"}


def test_commands_that_have_run_are_known_but_for_their_folder():
    command = ["--config", "x.py", "--workdir", "runs/1", "--config.model.depth=4"]
    remember(command)
    assert not has_run(command), "no program is kept"
    jax.config.update(FOLDER, "")
    remember(command)
    assert not default_folder().exists(), "as JAX_COMPILATION_CACHE_DIR= says"
    jax.config.update(FOLDER, None)
    use_compilation_cache("auto")
    assert not has_run(command)
    remember(command)
    assert has_run(command)
    assert has_run(["--config", "x.py", "--workdir=runs/2", "--config.model.depth=4"])
    assert not has_run(["--config", "x.py", "--workdir", "runs/1", "--config.model.depth=5"])


def test_asking_imports_no_jax():
    code = (
        "import sys; from hpm_jax.run.compilation_cache import has_run; has_run([]);"
        "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
