"""Every decoder trains, resumes, is the same on any devices, and is read by everything else."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import compiled_step, parts_of, schedule, small_config

from hpm_jax.continue_official import continue_official
from hpm_jax.convert.__main__ import describe
from hpm_jax.convert.about import About
from hpm_jax.convert.check import differences
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import to_state_dict
from hpm_jax.convert.to_hugging_face import to_hugging_face
from hpm_jax.convert.weights import WeightsError, masked_autoencoder
from hpm_jax.convert.write import write_weights
from hpm_jax.demo.model import model_of_run
from hpm_jax.errors import ConfigError
from hpm_jax.evaluation.rebuilding import fixed_mask
from hpm_jax.plan.arithmetic import attention_bytes, kept
from hpm_jax.run import devices as placement
from hpm_jax.run.build import build_sharded_step
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.state import abstract_state, on_one_device, param_shapes
from hpm_jax.tasks.pretrain import describe as describe_run
from hpm_jax.tasks.pretrain import load_start
from hpm_jax.visualize.view import HARD, HIDDEN, VISIBLE, make_view

CROSS = "cross_attention(share=0.5, blocks='all')"
REGRESSOR = "latent_regressor(depth=1)"
KINDS = [CROSS, "linear", REGRESSOR, "diffusion"]
EACH = pytest.mark.parametrize("kind", KINDS)
WITH_NOISE = pytest.mark.parametrize("kind", [*KINDS, "noisy_positions(levels=(0, 300))"])
QUERIED = {CROSS: 6, "linear": 12, REGRESSOR: 12, "diffusion": 12}


def config_of(kind, **changes):
    sections = {"optimizer": {"batch_size": 8}, "mask": {"strategy": "hard(start=0.5)"}}
    return small_config(**sections | changes, decoder=kind)


@functools.cache
def trained(kind):
    """The states before, between and after two steps, and the metrics of both."""
    parts, step = parts_of(config_of(kind)), compiled_step(config_of(kind))
    inputs = parts.images, parts.key, schedule(n_hard=6)
    second, metrics = step(parts.state, *inputs)
    third, others = step(second, *inputs)
    return (parts.state, second, third), (metrics, others)


@WITH_NOISE
def test_it_trains_and_resumes(kind, tmp_path):
    (first, second, third), (metrics, others) = trained(kind)
    assert np.isfinite([float(value) for value in (metrics | others).values()]).all()
    assert "ranked_correctly" in metrics
    for old, new in ((first, second), (second, third)):
        chex.assert_tree_all_finite(new.params)
        moved = jax.tree.map(lambda x, y: bool((x != y).any()), old.params, new.params)
        still = [
            jax.tree_util.keystr(path)
            for path, one in jax.tree_util.tree_leaves_with_path(moved)
            if not one
        ]
        still = {name for name in still if "head_bias" not in name}  # a ranking has none
        # what reads the blocks reads nothing that follows the last one
        norm = {f"['encoder']['transformer']['norm'][{name!r}]" for name in ("bias", "scale")}
        assert still == (norm if kind in (CROSS, "diffusion") else set())
    with checkpoints(tmp_path, keep=1) as saved:
        saved.save(second)
    with checkpoints(tmp_path, keep=1) as saved:
        restored = saved.restore(abstract_state(lambda: second, place=on_one_device), print)
    parts = parts_of(config_of(kind))
    again = compiled_step(config_of(kind))(restored, parts.images, parts.key, schedule(n_hard=6))
    chex.assert_trees_all_equal(again, (third, others))


@WITH_NOISE
def test_sharded_over_eight_devices(kind, monkeypatch):
    """Numbers of one device, with the parameters of blocks spread over two of eight."""
    monkeypatch.setattr(placement, "SMALL", 8)
    config = config_of(kind, run={"fsdp": 2})
    devices = placement.all_devices(2)
    sharded, parts = build_sharded_step(config, devices), parts_of(config_of(kind))
    assert devices.count == 8
    copy = jax.device_get(parts.state)  # the step donates its state
    state = jax.device_put(copy, jax.tree.map(lambda x: x.sharding, sharded.state))
    images = jax.device_put(parts.images, devices.batch)
    after, metrics = sharded.step(state, images, parts.key, schedule(n_hard=6))
    (_, expected, _), (numbers, _) = trained(kind)
    chex.assert_trees_all_close(metrics, numbers, rtol=1e-4, atol=1e-5)
    # the moments, as AdamW divides a gradient of about 0, that of a bias of keys, by itself
    moments = jax.device_get(after.optimizer)
    chex.assert_trees_all_close(moments, jax.device_get(expected.optimizer), rtol=1e-3, atol=1e-6)
    if kind == CROSS:
        kernel = after.params["predictor"]["transformer"]["blocks"]["attention"]["key_value"]
        assert not kernel["kernel"].sharding.is_fully_replicated


@EACH
def test_a_picture_shows_every_hidden_patch(kind):
    config = config_of(kind)
    parts = parts_of(config)
    view = make_view(parts.model, parts.method)
    seen = jax.jit(view)(parts.state, parts.images, schedule(n_hard=6))
    counts = [(seen.status == status).sum(axis=(1, 2)) for status in (VISIBLE, HIDDEN, HARD)]
    assert all((count == wanted).all() for count, wanted in zip(counts, (4, 6, 6), strict=True))
    np.testing.assert_array_equal(np.isnan(seen.true), seen.status == VISIBLE)
    assert np.isfinite(seen.predicted).all() and np.isfinite(seen.rebuilt).all()
    patches = parts.method.patches(parts.images)
    assert fixed_mask(parts.method, parts.state, patches, 0).hide.shape == (8, 12)


@EACH
def test_a_plan_by_arithmetic(kind):
    config = config_of(kind, model={"depth": 2})
    assert config.queried == QUERIED[kind]
    # of the encoder; weights of a decoder
    tokens = {CROSS: (5, 6 * 5), "linear": (17, 0), REGRESSOR: (5, 12 * (4 + 12))}
    tokens = (tokens | {"diffusion": (5, 12 * 12)})[kind]
    assert attention_bytes(config, 8) == 3 * 8 * 2 * max(tokens[0] ** 2, tokens[1]) * 4
    assert 0 < kept(config, 1, depth=1) < kept(config, 1)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """A run of each decoder, saved before its first step."""
    found = {}
    for kind in (*KINDS, "self_attention"):
        config = config_of(kind)
        found[kind] = open_workdir(tmp_path_factory.mktemp("runs"), config)
        with checkpoints(found[kind] / "checkpoints", keep=1) as saved:
            saved.save(parts_of(config).state)
    return found


ABOUT = About("runs/x", (0.5,), (0.5,), 1.0, "bicubic")


@EACH
def test_weights_in_and_out(kind, workdirs, tmp_path):
    """The encoder leaves as before; decoders of other kinds are refused or stay behind."""
    weights = read_weights(workdirs[kind])
    model = parts_of(config_of(kind)).model
    assert masked_autoencoder(weights).decoder == model.decoder.architecture
    assert f"decoder      {model.decoder.architecture}, width 8" in describe(weights)
    write_weights(tmp_path / "encoder.npz", weights, "timm")
    again = read_weights(tmp_path / "encoder.npz", heads=2)
    assert not again.architecture.decoder_width
    chex.assert_trees_all_equal(again.params["encoder"], weights.params["encoder"])
    assert set(differences(weights, weights)) >= {"encoder", "reconstruction", "predicted loss"}
    with pytest.raises(WeightsError) as refusal:
        to_state_dict(weights, "hpm")
    assert "pre-trained with config.decoder = " in str(refusal.value)
    exported = to_hugging_face(weights, ABOUT)
    assert not any("decoder" in name for name in exported.state)
    assert "transformers has 'self_attention' alone" in exported.notes[0]
    with pytest.raises(ConfigError, match="official checkpoints have MAE's decoder"):
        continue_official(config_of(kind), "x.pth", tmp_path, print)
    demo = model_of_run(workdirs[kind])
    found = jax.eval_shape(
        lambda p: demo.model.apply({"params": p}, jnp.zeros((2, 16, 16)), method="predict_loss"),
        demo.teacher,
    )
    assert found.shape == (2, 16)


@pytest.mark.parametrize(
    ("before", "kind"),
    [(CROSS, CROSS), ("linear", CROSS), ("self_attention", "linear"), (CROSS, "self_attention")],
)
def test_starting_from_another_decoder(before, kind, workdirs):
    """The encoder always; the decoder, whatever its share, where it is of the same kind."""
    changed = kind.replace("share=0.5", "share=0.75")
    config = config_of(changed, init_from=str(workdirs[before]))
    said = []
    parts = parts_of(config_of(kind))
    start = load_start(config, parts.model, parts.method, said.append)
    chex.assert_trees_all_equal_shapes(start["encoder"], param_shapes(parts.model)["encoder"])
    assert ("reconstructor" in start) == (before == kind)
    assert ("new: decoder_input" in said[0]) == (before != kind)


def test_the_description_of_a_run_names_it():
    class Splits:
        classes, train, test = (), range(640), range(10)

    class Timetable:
        steps = 10

    for kind, named in (("self_attention", False), ("linear", True)):
        text = "\n".join(describe_run(config_of(kind), Splits, Timetable, 1))
        assert ("; decoder linear; loss" in text) == named
