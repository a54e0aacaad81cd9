"""Encoders with options in files: out and in, what says so, and what is refused; without torch."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from small import MAE, changed, small_config, small_options, task_options
from small_weights import assert_same_weights, random_like

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert import __main__ as command
from hpm_jax.convert import preprocessing
from hpm_jax.convert.about import about
from hpm_jax.convert.assign import assign
from hpm_jax.convert.folder import write_folder
from hpm_jax.convert.preprocessing import normalization
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import from_state_dict, to_state_dict
from hpm_jax.convert.to_onnx import make_model
from hpm_jax.convert.tower_config import tower_config
from hpm_jax.convert.towers import CLIP_MEAN, CLIP_STD
from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    WeightsError,
    classifier,
    masked_autoencoder,
    masked_autoencoder_params,
    model_shapes,
)
from hpm_jax.convert.write import write_weights
from hpm_jax.run.build import build_method, build_model, build_optimizer
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.state import fresh_state, param_shapes
from hpm_jax.targets import TargetContext
from hpm_jax.tokens import Tokenizer
from hpm_jax.visualize.attention import cls_attention, draw_attention
from hpm_jax.visualize.photographs import load_photographs, photograph_parser

DINOV2 = {"registers": 3, "layer_scale": 1e-5, "mlp": "swiglu"}
CLIP = {"pre_norm": True, "patch_bias": False, "mlp": "quick_gelu", "norm_eps": 1e-5}
SIGLIP = {"cls_token": False, "mlp": "gelu_tanh", "mlp_width": 72}
DINOV3 = {"registers": 2, "rotary_base": 50.0, "encoder_positions": "none", "norm_eps": 1e-5}
OPTIONS = {"dinov2": DINOV2, "clip": CLIP, "siglip": SIGLIP, "dinov3": DINOV3}


def weights_of(kind, grid=(1, 4, 4), channels=3):
    """A random encoder with a last norm and no head."""
    a = Architecture(grid, 4, channels, width=32, depth=2, heads=4, **OPTIONS[kind])
    return Weights(a, random_like(model_shapes(a)))


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_out_and_in(tmp_path, kind, ending):
    """Oblong grids and all options are noted in our files."""
    weights = weights_of(kind, (1, 3, 5))
    path = tmp_path / f"encoder.{ending}"
    write_weights(path, weights)
    assert_same_weights(read_weights(path), weights)


def test_without_a_note():
    """Names and shapes tell all but the activation; a file of a square grid needs no more."""
    weights = weights_of("dinov2")
    assert_same_weights(from_state_dict(to_state_dict(weights), heads=4), weights)
    for kind in ("clip", "siglip"):
        weights, mlp = weights_of(kind), OPTIONS[kind]["mlp"]
        state = to_state_dict(weights)
        with pytest.raises(WeightsError, match=rf"activation.*{mlp}"):
            from_state_dict(state, heads=4)
        again = from_state_dict(state, heads=4, options={"mlp": mlp})
        assert_same_weights(again, weights)


def test_positions_of_patches_alone():
    """timm's models with registers have no position of the cls token: it is zero here."""
    weights = weights_of("dinov2")
    state = to_state_dict(weights)
    token, positions = state["cls_token"], state["pos_embed"]
    state |= {"cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}
    again = from_state_dict(state, heads=4)
    assert again.architecture == weights.architecture
    assert not again.params["encoder"]["positions"][0, 0].any()
    outputs = [encoded(each) for each in (weights, again)]
    np.testing.assert_allclose(*outputs, atol=1e-5)


def encoded(weights):
    model = classifier(weights)
    patches = np.random.default_rng(0).normal(size=(2, 16, 48)).astype(np.float32)
    return jax.jit(lambda p, x: model.apply({"params": p}, x, method="features"))(
        weights.params, patches
    )


def test_the_command_describes_and_converts(tmp_path, capsys):
    save_file(to_state_dict(weights_of("clip")), tmp_path / "clip.safetensors")
    arguments = [str(tmp_path / "clip.safetensors"), str(tmp_path / "ours.npz"), "--heads", "4"]
    with pytest.raises(SystemExit, match="--mlp quick_gelu"):
        command.main(arguments)
    command.main([*arguments, "--mlp", "quick_gelu", "--check"])
    shown = capsys.readouterr().out
    assert "options      pre_norm=True, patch_bias=False, mlp='quick_gelu', norm_eps=1e-05" in shown
    assert "read again" in shown and "timm" not in shown
    assert read_weights(tmp_path / "ours.npz").architecture == weights_of("clip").architecture


def test_what_other_libraries_do_not_have_is_refused(tmp_path):
    weights = weights_of("dinov2")
    for names in ("hugging_face", "timm"):
        with pytest.raises(WeightsError, match=r"without registers = 3, mlp = 'swiglu'"):
            write_folder(tmp_path / "out", weights, names, about("encoder.npz", weights))
    assert not (tmp_path / "out").exists()
    pytest.importorskip("onnx")
    with pytest.raises(WeightsError, match="ONNX has plain"):
        make_model(weights)


def test_normalization_of_images(tmp_path):
    found = normalization(tmp_path / "x.npz", weights_of("clip").architecture)
    assert found == {"mean": CLIP_MEAN, "std": CLIP_STD}
    found = normalization(tmp_path / "x.npz", weights_of("siglip").architecture)
    assert found == {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    for kind, share in {"clip": 1.0, "siglip": 1.0, "dinov2": 0.875, "dinov3": 0.875}.items():
        a = weights_of(kind).architecture
        assert preprocessing.test_crop(tmp_path / "x.npz", a, (224, 224)) == share


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "clip", "vision_config": 3}, "vision_config is a int"),
        ({"model_type": "dinov2", "hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"model_type": "dinov2", "layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
        ({"model_type": "dinov3_vit", "use_gated_mlp": True}, "expected 'silu'"),
        ({"model_type": "siglip", "vision_config": {"num_attention_heads": 0}}, "whole number"),
    ],
)
def test_configs_that_cannot_be_right(config, message):
    with pytest.raises(WeightsError, match=message):
        tower_config(config)


def test_configs_that_leave_out_what_is_usual():
    found = tower_config({"model_type": "siglip", "vision_config": {"num_attention_heads": 16}})
    assert (found.heads, found.options) == (16, {"norm_eps": 1e-6, "mlp": "gelu_tanh"})
    found = tower_config({"model_type": "clip"})
    assert (found.heads, found.options) == (12, {"norm_eps": 1e-5, "mlp": "quick_gelu"})
    assert tower_config({"model_type": "vit"}) is None


CALL = "frozen_features(path={!r}, heads=4, normalize='none'{})"


def config_with_target(path, more=""):
    options = small_options()
    options.data.update(channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, source="synthetic")
    options.target = CALL.format(str(path), more)
    return freeze(changed(options, MAE))


@pytest.mark.parametrize("kind", OPTIONS)
def test_features_as_a_target(tmp_path, kind):
    """Without cls token and registers, on the run's grid, with the encoder's own mean."""
    weights = weights_of(kind)
    path = tmp_path / "encoder.npz"
    write_weights(path, weights)
    known = normalization(path, weights.architecture)
    config = config_with_target(path, f", mean={known['mean']}, std={known['std']}")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    encoder = classifier(weights).bind({"params": weights.params}).encoder
    patches = Tokenizer((1, 4, 4), known["mean"], known["std"])(images)
    expected = encoder(patches)[:, {"dinov2": 4, "clip": 1, "siglip": 0, "dinov3": 3}[kind] :]
    assert expected.shape[1:] == (16, 32)
    method = build_method(config)
    frozen = config.target.load(method.setting)
    context = TargetContext(method.patches(images), config.grid, method.tokenizer, frozen)
    found = jax.jit(lambda: config.target(context))()
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_a_target_has_its_own_mean(tmp_path):
    """CLIP's and SigLIP's; the defaults of the target are ImageNet's, which DINOv2 has."""
    for kind in OPTIONS:
        path = tmp_path / f"{kind}.npz"
        write_weights(path, weights_of(kind))
        if kind in ("clip", "siglip"):
            with pytest.raises(ConfigError, match=r"normalised by other numbers: set mean=\(0\."):
                config_with_target(path)
        else:
            config_with_target(path)


def test_attention_over_a_photograph(tmp_path):
    write_weights(tmp_path / "encoder.npz", weights_of("dinov3"))
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    options = photograph_parser("", "", "").parse_args(
        [
            f"--init_from={tmp_path / 'encoder.npz'}",
            "--image_size=24,40",
            str(tmp_path / "photo.png"),
        ]
    )
    photos = load_photographs(options, cls_token=True)
    found = cls_attention(photos)
    assert found.shape == (1, 4, 3 + 6 * 10)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    assert draw_attention(photos, found).size[0] > 100


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_positions": "none", "rotary_base": 100.0, "cls_token": False},
        {"encoder_positions": "learned", "registers": 2, "cls_token": False},
    ],
)
def test_whole_models_out_and_in(tmp_path, options):
    """With decoders, which have neither the options nor the registers."""
    decoder = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    a = Architecture((1, 3, 5), 4, 3, width=32, depth=1, heads=4, **decoder, **options)
    weights = Weights(a, random_like(model_shapes(a)))
    write_weights(tmp_path / "hpm.npz", weights, "hpm")
    assert_same_weights(read_weights(tmp_path / "hpm.npz"), weights)
    expected = param_shapes(masked_autoencoder(weights))
    _, matching = assign(expected, masked_autoencoder_params(weights))
    assert not matching.new and not matching.dropped


def test_a_run_goes_out_and_in(tmp_path):
    """The workdir of a pre-training run as a whole model, which other runs start from."""
    options = {"encoder_positions": "learned", "rotary_base": 100.0, "mlp": "swiglu"}
    config = small_config(model=options, **MAE)
    model = build_model(config)
    state = fresh_state(random_like(param_shapes(model)), build_optimizer(config))
    workdir = open_workdir(tmp_path / "run", config)
    with checkpoints(workdir / "checkpoints", keep=1) as saved:
        saved.save(state)
    weights = read_weights(workdir)
    write_weights(tmp_path / "hpm.npz", weights, "hpm")
    again = read_weights(tmp_path / "hpm.npz")
    assert_same_weights(again, weights)
    start, matching = assign(param_shapes(model), masked_autoencoder_params(again))
    assert not matching.new and not matching.dropped
    jax.tree.map(np.testing.assert_array_equal, start, state.params)
    images = {"mean": (0.5,), "std": (0.5,)}
    finetune = freeze(inherit(task_options("finetune", tmp_path / "hpm.npz", data=images)))
    found = dataclasses.asdict(finetune.model)
    assert {name: found[name] for name in options} == options
