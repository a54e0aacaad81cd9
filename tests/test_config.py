"""Configs: every file builds and traces, and what is wrong with one is said in one sentence."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import schedule, small_options
from small_weights import random_weights

from hpm_jax.compare.arms import arm_configs
from hpm_jax.config import ConfigError, Optimizer, defaults, freeze
from hpm_jax.convert.weights import Architecture
from hpm_jax.convert.write import write_weights
from hpm_jax.evaluation.heads import attentive, linear
from hpm_jax.evaluation.probe_features import SWEEPS
from hpm_jax.evaluation.probes import Sweep, init_probe, make_probe_step
from hpm_jax.run.build import (
    Start,
    batch_inputs,
    build_classifier,
    build_detect_init,
    build_detect_recipe,
    build_detector,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    build_recipe,
    build_segment_init,
    build_segment_recipe,
    build_segmenter,
    load_frozen,
)
from hpm_jax.run.devices import all_devices, check_batch
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.detect_step import make_detect_step
from hpm_jax.step.finetune_step import make_finetune_step
from hpm_jax.step.optimizer import layer_scales, layerwise
from hpm_jax.step.schedules import DetectSchedule, FinetuneSchedule, SegmentSchedule
from hpm_jax.step.segment_step import learning_rates, make_segment_step
from hpm_jax.step.state import fresh_state, init_params
from hpm_jax.step.step import make_train_step
from hpm_jax.targets.fitted import write_arrays
from hpm_jax.tasks.detect import batch_shapes
from hpm_jax.tasks.finetune import label_shapes

FOLDER = Path(__file__).parent.parent / "configs"
VARIANTS = {
    "quickstart": [None],
    "quickstart_video": ["", "mae,epochs=2", "random,label=both,seed=1"],
    "hpm_in1k": ["", "S", "L,epochs=800", "H,epochs=1600", "B,target=features", "teacher=visible"],
    "mae_in1k": ["", "L,epochs=1600"],
    "crossmae_in1k": ["S", "B,share=0.3333,method=hpm"],
    "simmim_in1k": ["", "S,masks=hpm"],
    "maskfeat_in1k": ["", "S,masks=hpm"],
    "dbot_in1k": ["", "L,stage=400"],
    "maskdistill_in1k": [""],
    "dmae_in1k": [""],
    "capi_in1k": ["S", "S,masks=hpm"],
    "lut_in1k": [""],
    "mfm_in1k": ["S", "with=hpm"],
    "supervised_in1k": ["S", "S,masks=hpm"],
    "hybrid_distill_in1k": [""],
    "dmjd_in1k": [""],
    "localmim_in1k": ["S", "L,method=hpm"],
    "maskalign_in1k": ["S"],
    "cae_in1k": ["", "S,masks=hpm"],
    "njepa_in1k": ["", "S,masks=hpm", "H"],
    "diffmae_in1k": ["", "S,method=hpm"],
    "beit2_in1k": [""],
    "videomae_k400": ["", "L", "S,recipe=mae_st"],
    "hpm_k400": ["", "B,masks=free", "H"],
    "hpm_ssv2": ["", "L,epochs=2401", "B,method=videomae"],
    "hpm_ucf101": ["", "videomae"],
    "finetune_video": ["", "ssv2", "k400,size=L", "ucf101", "k400,recipe=mae_st"],
    "hpm_folder": ["", "micro,epochs=10", "B,pixels=160"],
    "hpm_cifar10": [
        "",
        "random",
        "random,target=features",
        "mae,size=micro,epochs=10",
        "hpm,size=micro,epochs=10",
    ],
    "finetune": ["", "epochs=40,batch=64"],
    "finetune_multi_label": ["", "pixels=448,branch=0"],
    "finetune_in1k": ["", "L,recipe=mae,pixels=384", "H"],
    "probe_in1k": ["", "mae,size=L,sweep=0", "attentive,epochs=20"],
    "report": ["", "finetune=3,attentive=1"],
    "evaluate": ["", "k400", "ssv2", "mae_st"],
    "segment": ["", "frozen=1,epochs=10,batch=8"],
    "segment_ade20k": ["", "frozen=1,pixels=640,epochs=64", "decoder=upernet", "L,decoder=upernet"],
    "detect": ["", "epochs=10,batch=8,pixels=256"],
    "detect_coco": ["", "L", "B,recipe=hpm"],
    "detect_evaluate": [""],
    "segment_probe": ["", "block=9,bank=1000"],
    "depth_probe": ["", "block=9,bank=1000,eigen=1"],
    "track": ["", "block=9,height=224,width=224,frames=3,radius=0,neighbors=1"],
    "segment_evaluate": ["", "scales=many,flip=1"],
    "demo": ["", "epochs=2"],
    "compare_cifar10": [""],
    "compare_digits": [""],
    "compare_teacher": ["", "cheaper"],
    "compare_methods": ["", "grid"],
}


def load(name, variant):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config() if variant is None else module.get_config(variant)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Weights of a narrow encoder as deep as a ViT-L."""
    path = tmp_path_factory.mktemp("teacher") / "encoder.npz"
    sizes = {"patch_size": 16, "channels": 3, "width": 16, "depth": 24, "heads": 4}
    write_weights(path, random_weights(Architecture((1, 14, 14), **sizes)), "timm")
    return path


def test_no_config_is_forgotten():
    assert {path.stem for path in FOLDER.glob("*.py")} == VARIANTS.keys()


@pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name in VARIANTS for variant in VARIANTS[name]]
)
def test_configs_build_and_trace(name, variant, teacher, tmp_path):
    options = load(name, variant)
    if name in ("maskdistill_in1k", "dmae_in1k", "maskalign_in1k", "hybrid_distill_in1k"):
        with pytest.raises(ConfigError, match="path is empty: expected a file of weights"):
            freeze(options)
        both = f"mae={teacher},clip={teacher},parts=4"
        options = load(name, both if name == "hybrid_distill_in1k" else f"teacher={teacher}")
    if name == "beit2_in1k":
        write_arrays(tmp_path / "codes.npz", codebook=np.eye(24, 16, dtype=np.float32))
        options = load(name, f"teacher={teacher},codes={tmp_path / 'codes.npz'}")
    if "init_from" in options and options.task != "pretrain":
        options.init_from = "runs/x"
    config = freeze(options)
    with jax.numpy_dtype_promotion("standard"):  # flax's layer norm mixes dtypes in bfloat16
        TRACES[config.task](config)


def trace_pretrain(config):
    model, method, optimizer = build_model(config), build_method(config), build_optimizer(config)
    init = build_init(config, model, method, optimizer)
    state = jax.eval_shape(init, KEY, Start(frozen=load_frozen(method)))
    step = make_train_step(model, method, optimizer, config.optimizer.accumulation)
    assert_steady(state, step, *batch_inputs(config, method).values(), KEY, schedule())


def trace_finetune(config):
    model, optimizer = build_classifier(config, classes=10), build_optimizer(config)
    state = jax.eval_shape(lambda k: fresh_state(init_params(model, k), optimizer), KEY)
    (labels,) = label_shapes(config, 10).values()
    step = make_finetune_step(model, build_recipe(config), optimizer, config.optimizer.accumulation)
    scalars = FinetuneSchedule(np.float32(1e-3), np.float32(0.1))
    assert_steady(state, step, images_of(config), labels, KEY, scalars)


def trace_segment(config):
    model, optimizer = build_segmenter(config, classes=150), build_optimizer(config)
    state = jax.eval_shape(build_segment_init(model, optimizer), KEY, Start())
    size = (config.optimizer.batch_size, *config.data.image_size)
    rates = learning_rates(state.params, model, config.optimizer.layer_decay)
    step = make_segment_step(model, build_segment_recipe(config), optimizer, rates)
    labels = jax.ShapeDtypeStruct(size, jnp.int16)
    scalars = SegmentSchedule(np.float32(1e-3))
    assert_steady(state, step, images_of(config), labels, KEY, scalars)


def trace_detect(config):
    model, optimizer = build_detector(config, classes=80), build_optimizer(config)
    state = jax.eval_shape(build_detect_init(model, optimizer), KEY, Start())
    rates = layerwise(layer_scales(state.params, config.optimizer.layer_decay))
    step = make_detect_step(model, build_detect_recipe(config), optimizer, rates)
    scalars = DetectSchedule(np.float32(1e-3))
    assert_steady(state, step, *batch_shapes(config).values(), KEY, scalars)


def trace_probe(config):
    """The heads and the sweep; the encoder is that of the weights."""
    settings = config.optimizer.base_learning_rates, config.optimizer.weight_decays
    head, shape = (linear, (768,)) if config.head == "linear" else (attentive(12), (197, 768))
    kind, batch = config.optimizer.kind, config.optimizer.batch_size
    assert_probes_train(head, Sweep(*settings), kind, shape, batch)


def trace_report(config):
    """The heads that are trained on frozen features of a ViT-B, each with its own sweep."""
    heads = {"linear": linear, "attentive": attentive(config.probes.attentive_heads)}
    trained = heads.keys() & set(config.probes.names)
    assert trained, "every report has one"
    for name in trained:
        shape = (768,) if name == "linear" else (197, 768)
        kind = heads[name].optimizer
        assert_probes_train(heads[name], SWEEPS[kind], kind, shape, config.probes.batch_size)


def assert_probes_train(head, sweep, kind, shape, batch):
    """A step of the sweep gives back the state that it takes, and a loss for each setting."""
    state = jax.eval_shape(lambda k: init_probe(head, sweep, kind, shape, 10, k), KEY)
    step = make_probe_step(head, sweep, kind)
    features = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    after, metrics = jax.eval_shape(
        step, state, features, jax.ShapeDtypeStruct((batch,), jnp.int32), np.float32(1)
    )
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics["loss"].shape == (len(sweep.settings),)


def trace_compare(config):
    """Every arm that differs in what it compiles."""
    arms = arm_configs(config)
    assert list(arms) == list(config.order)
    traced = {"mae", "hpm", "green", "parts", "every_4", "visible_int8"}
    traced |= {"capi", "simmim", "random_teacher"}
    for name in sorted(traced & arms.keys()):
        trace_pretrain(arms[name])


TRACES = {
    "compare": trace_compare,
    "pretrain": trace_pretrain,
    "finetune": trace_finetune,
    "probe": trace_probe,
    "report": trace_report,
    "segment": trace_segment,
    "detect": trace_detect,
    # what they read describes itself: see the test of each
    "segment_evaluate": lambda config: config.task == "segment_evaluate",
    "segment_probe": lambda config: config.task == "segment_probe",
    "detect_evaluate": lambda config: config.task == "detect_evaluate",
    "depth_probe": lambda config: config.task == "depth_probe",
    "track": lambda config: config.task == "track",
    # scores a classifier that its own file describes: tests/test_evaluate.py
    "evaluate": lambda config: config.task == "evaluate",
}
KEY = jax.eval_shape(lambda: jax.random.key(0))


def images_of(config):
    shape = (config.optimizer.batch_size, *config.data.train_shape)
    return jax.ShapeDtypeStruct(shape, jnp.uint8)


def assert_steady(state, step, *inputs):
    """A step gives back what it takes, so it is compiled once; its metrics are scalars."""
    after, metrics = jax.eval_shape(step, state, *inputs)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(value.shape == () and value.dtype == np.float32 for value in metrics.values())


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
