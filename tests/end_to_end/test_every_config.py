"""Every config file builds its model and its step, which is traced at full size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shipped_configs import EVERY, frozen, write_files
from small import schedule

from hpm_jax.compare.arms import arm_configs
from hpm_jax.evaluation.heads import attentive, linear
from hpm_jax.evaluation.probe_features import SWEEPS
from hpm_jax.evaluation.probes import Sweep, init_probe, make_probe_step
from hpm_jax.run.build import (
    Start,
    batch_inputs,
    build_classifier,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    build_recipe,
    load_frozen,
)
from hpm_jax.run.build_dense import (
    build_detect_init,
    build_detect_recipe,
    build_detector,
    build_segment_init,
    build_segment_recipe,
    build_segmenter,
)
from hpm_jax.step.detect_step import make_detect_step
from hpm_jax.step.finetune_step import make_finetune_step
from hpm_jax.step.optimizer import layer_scales, layerwise
from hpm_jax.step.schedules import DetectSchedule, FinetuneSchedule, SegmentSchedule
from hpm_jax.step.segment_step import learning_rates, make_segment_step
from hpm_jax.step.state import fresh_state, init_params
from hpm_jax.step.step import make_train_step
from hpm_jax.tasks.detect import batch_shapes
from hpm_jax.tasks.finetune import label_shapes


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@EVERY
def test_configs_build_and_trace(name, variant, files):
    config = frozen(name, variant, files)
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
    # scores a classifier that its own file describes: tests/end_to_end/test_evaluate.py
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
