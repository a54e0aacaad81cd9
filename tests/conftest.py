"""Eight virtual devices, no silent mixing of dtypes, quick compilation, and shapes checked."""

import os

import jax
import jaxtyping
import pytest

# for the processes that tests start as well; jaxlib 0.12 ends at a flag that it does not know
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if jax.__version_info__ < (0, 12):
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # tests write no programs to the user's cache
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)
# What these are called with has to be as they say: shapes and dtypes, when a step is traced. The
# modules of pytrees (state, schedules) are left out: jax fills those with what is no array.
CHECKED = ["tokens"]
CHECKED += ["masking.selection", "masking.units", "losses.reconstruction", "losses.ranking"]
CHECKED += ["targets.pixels", "models.encoder", "models.masked_autoencoder"]
CHECKED += ["step.mask", "step.criterion", "step.finetune_step", "step.step", "step.update"]
jaxtyping.install_import_hook([f"hpm_jax.{name}" for name in CHECKED], "beartype.beartype")


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
