"""Configs: every file is accepted, and what is wrong with one is said in one sentence."""

import pytest
from shipped_configs import CONFIGS, EVERY, VARIANTS, frozen, load, write_files
from small import small_options

from hpm_jax.config import ConfigError, Optimizer, defaults, freeze
from hpm_jax.run.devices import all_devices, check_batch
from hpm_jax.run.workdir import open_workdir


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


def test_no_config_is_forgotten():
    assert {path.stem for path in CONFIGS.glob("*.py")} == VARIANTS.keys()


@EVERY
def test_every_config_is_accepted(name, variant, files):
    """tests/end_to_end/test_every_config.py builds and traces them as well."""
    assert frozen(name, variant, files).task


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("mask", {"strategy": "hardd"}, r"config.mask.strategy = 'hardd': .* did you mean 'hard'"),
        ("mask", {"ratio": 0.0}, "config.mask.ratio = 0.0: expected a number above 0 below 1"),
        ("mask", {"ratio": 1.0}, "config.mask.ratio = 1.0: expected a number above 0 below 1"),
        ("mask", {"ratio": 0.999}, "mask ratio 0.999 hides 196 of 196 patches"),
        ("mask", {"strategy": "hard(end=1.5)"}, "hard.end = 1.5: expected a number from 0 to 1"),
        ("data", {"image_size": (224, 230)}, "width 230 is not a multiple of the patch size 16"),
        ("data", {"source": "foldr"}, "did you mean 'folder'"),
        ("data", {"channels": 4}, r"config.data.mean = .*: expected 4 values"),
        ("data", {"crop_scale": (0.5, 0.2)}, "config.data.crop_scale"),
        ("model", {"width": 770}, "config.model.width = 770: expected a multiple of 4"),
        ("model", {"decoder_heads": 7}, "config.model.decoder_width = 512"),
        ("model", {"depth": 0}, "config.model.depth = 0: expected a number from 1"),
        ("model", {"dtype": "float23"}, "did you mean 'float32'"),
        ("losses", (), "'hard' reads predicted losses, and no term of"),
        ("losses", ("ranking", "absolute"), "which both teach the loss predictor"),
        ("losses", ("ranking", "ranking"), "'ranking' twice"),
        ("losses", ("rankng",), "no loss 'rankng': did you mean 'ranking'"),
        ("losses", ("ranking(pairs='tubes')",), "ranks tubes, and config.mask.unit = 'patch'"),
        ("teacher", "none", "'hard' asks the teacher"),
        ("target", "pixel", "no target 'pixel': did you mean 'pixels'"),
        ("optimizer", {"warmup_epochs": 300.0}, "not shorter than the run of 200 epochs"),
        ("optimizer", {"accumulation": 3}, "does not split into"),
    ],
)
def test_what_cannot_run(section, changes, message):
    config = defaults()
    if isinstance(changes, dict):
        config[section].update(changes)
    else:
        config[section] = changes
    with pytest.raises(ConfigError, match=message):
        freeze(config)


def test_wrong_keys_and_types():
    for path, value, message in (
        ("optimizer", {"bach_size": 3}, "config.optimizer.bach_size .* did you mean 'batch_size'"),
        ("optimizer", {"batch_size": "many"}, "batch_size = 'many': expected int"),
        ("optimizer", {"batch_size": True}, "batch_size = True: expected int"),
        ("optimizer", 3, "config.optimizer = 3: expected options"),
        ("data", {"image_size": 224}, "config.data.image_size = 224: expected a tuple"),
        ("data", {"image_size": (1, 2, 3)}, "expected 2 values"),
        ("optimiser", {}, "did you mean 'optimizer'"),
    ):
        with pytest.raises(ConfigError, match=message):
            freeze({path: value})


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("XL", "did you mean 'L'"),
        ("epoch=3", "did you mean 'epochs'"),
        ("epochs=x", "expected int"),
    ],
)
def test_wrong_variants(variant, message):
    with pytest.raises(ConfigError, match=message):
        load("hpm_in1k", variant)


def test_a_batch_that_the_devices_do_not_divide():
    options = load("quickstart", None)
    check_batch(freeze(options), all_devices())
    options.optimizer.batch_size = 60
    with pytest.raises(ConfigError, match="does not divide over 8 devices: use 56 or 64"):
        check_batch(freeze(options), all_devices())


def test_a_workdir_of_another_config(tmp_path):
    options = load("quickstart", None)
    open_workdir(tmp_path, freeze(options))
    options.run.workers = 3
    open_workdir(tmp_path, freeze(options))  # how it is run may change
    before = (tmp_path / "config.json").read_bytes()
    options.optimizer.epochs = 51
    with pytest.raises(ConfigError, match=r"optimizer\.epochs: 50 there, 51 now"):
        open_workdir(tmp_path, freeze(options))
    assert (tmp_path / "config.json").read_bytes() == before


def test_official_linear_probes():
    """The published setting alone, and the epochs of MAE's sizes (MAE, FINETUNE.md)."""
    for variant, epochs, peak in (("mae", 90, 6.4), ("mae,size=L", 50, 6.4), ("hpm", 100, 8e-3)):
        options = load("probe_in1k", f"{variant},sweep=0")
        options.init_from = "x"
        config = freeze(options)
        optimizer = config.optimizer
        assert optimizer.epochs == epochs and config.choose_on == 0 and config.data.crop == "byol"
        assert len(optimizer.base_learning_rates) == len(optimizer.weight_decays) == 1
        assert optimizer.base_learning_rates[0] * optimizer.batch_size / 256 == pytest.approx(peak)


def test_the_peak_is_given_or_follows_the_batch():
    """The scaling rule, or the rate itself; both at once contradict each other."""
    assert Optimizer(batch_size=512, base_learning_rate=1e-3).learning_rate == 2e-3
    assert Optimizer(batch_size=512, absolute_learning_rate=1e-3).learning_rate == 1e-3
    config = small_options()
    config.optimizer.update(absolute_learning_rate=3e-4, base_learning_rate=0.0)
    assert freeze(config).optimizer.learning_rate == 3e-4
    config.optimizer.base_learning_rate = 2e-3
    message = "absolute_learning_rate = 0.0003 and .*base_learning_rate = 0.002 contradict"
    with pytest.raises(ConfigError, match=message):
        freeze(config)
    config.optimizer.update(absolute_learning_rate=0.0, base_learning_rate=0.0)
    with pytest.raises(ConfigError, match=r"base_learning_rate = 0\.0: expected more than 0"):
        freeze(config)
