"""Eight virtual devices, no silent mixing of dtypes, and quick compilation."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """The workdir of a small pre-training run that has been saved before its first step."""
    from small import parts_of, small_config

    from hpm_jax.run.checkpoints import checkpoints
    from hpm_jax.run.workdir import open_workdir

    config = small_config()
    workdir = open_workdir(tmp_path_factory.mktemp("pretrained"), config)
    with checkpoints(workdir / "checkpoints", keep=1) as saved:
        saved.save(parts_of(config).state)
    return workdir
