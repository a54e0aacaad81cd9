"""Weights of video models in and out again, and where they start; needs no torch."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small import changed, small_options, task_options
from small_weights import (
    DECODER,
    VIDEO_ENCODER,
    assert_same_state,
    assert_same_weights,
    random_like,
    random_weights,
    video_mae_state,
)

from hpm_jax.config import Features, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert import __main__ as command
from hpm_jax.convert.check import differences
from hpm_jax.convert.read import read_weights, starting_weights
from hpm_jax.convert.state_dict import from_state_dict, to_state_dict
from hpm_jax.convert.weights import (
    Weights,
    WeightsError,
    masked_autoencoder,
    masked_autoencoder_params,
)
from hpm_jax.convert.write import write_weights
from hpm_jax.evaluation.features import frozen_encoder
from hpm_jax.run.build import build_classifier, build_method, build_model, build_optimizer
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.state import fresh_state, param_shapes
from hpm_jax.tasks import finetune, pretrain

SIZES = {"heads": 4, "decoder_heads": 2, "grid": (4, 4)}  # of the golden model
MODEL = dataclasses.replace(VIDEO_ENCODER, **DECODER, loss_predictor=True)
CLASSIFIER = dataclasses.replace(VIDEO_ENCODER, classes=7, pool="mean")


@pytest.fixture(scope="module")
def official():
    return video_mae_state()


# --- VideoMAE's own names


def test_pre_training_in_and_out(official, tmp_path):
    path = tmp_path / "videomae.safetensors"
    weights = from_state_dict(official, **SIZES)
    a = weights.architecture
    assert (a.layout, a.grid, a.patch, a.channels) == ("videomae", (8, 4, 4), (2, 8, 8), 3)
    assert (a.width, a.depth, a.heads) == (48, 2, 4)
    assert (a.decoder_width, a.decoder_depth, a.decoder_heads) == (32, 2, 2)
    assert not a.loss_predictor and not a.classes
    write_weights(path, weights)
    assert_same_state(load_file(path), official)
    assert_same_weights(read_weights(path), weights)


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_prefixes_of_wrappers(official, prefix):
    """The decoder stands beside `encoder.`, inside the wrapper."""
    state = {prefix + name: value for name, value in official.items()}
    assert_same_weights(from_state_dict(state, **SIZES), from_state_dict(official, **SIZES))


def test_encoder_alone(official):
    """As VideoMAE's fine-tuning takes it from pre-training: without prefix, or after a backbone."""
    encoder = {name[8:]: v for name, v in official.items() if name.startswith("encoder.")}
    weights = from_state_dict(encoder, heads=4, grid=(4, 4))
    whole = from_state_dict(official, **SIZES)
    assert weights.architecture.decoder_width == 0
    jax.tree.map(np.testing.assert_array_equal, weights.params["encoder"], whole.params["encoder"])
    for state in (
        {f"backbone.{name}": value for name, value in encoder.items()},
        {f"encoder.{name}": value for name, value in encoder.items()},
    ):
        assert_same_weights(from_state_dict(state, heads=4, grid=(4, 4)), weights)
    drop = ["decoder", "encoder_to_decoder", "mask_token"]
    assert_same_weights(from_state_dict(official, heads=4, grid=(4, 4), drop=drop), weights)
    assert_same_state(to_state_dict(weights), encoder)


def names_of_blocks(start, depth):
    attention = ["attn.q_bias", "attn.v_bias", "attn.qkv.weight"]
    layers = ["norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    inside = attention + [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    return {f"{start}blocks.{block}.{name}" for block in range(depth) for name in inside}


def test_classifier_names(tmp_path):
    weights, path = random_weights(CLASSIFIER), tmp_path / "video.npz"
    state = to_state_dict(weights)
    ends = {f"{layer}.{kind}" for layer in ("fc_norm", "head") for kind in ("weight", "bias")}
    patches = {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert state.keys() == names_of_blocks("", 2) | ends | patches
    assert state["patch_embed.proj.weight"].shape == (32, 3, 2, 4, 4)
    write_weights(path, weights, "videomae")
    assert_same_weights(read_weights(path), weights)


def test_hard_patches_on_video(tmp_path):
    """`hpm` adds the loss predictor under names like the decoder's; `videomae` leaves it out."""
    weights, path = random_weights(MODEL), tmp_path / "hpm.npz"
    state, without = to_state_dict(weights, "hpm"), to_state_dict(weights, "videomae")
    ends = {f"{layer}.{kind}" for layer in ("norm", "head") for kind in ("weight", "bias")}
    added = names_of_blocks("decoder_losspred.", 1) | {f"decoder_losspred.{end}" for end in ends}
    assert state.keys() == without.keys() | added
    head = state["decoder_losspred.head.weight"]
    np.testing.assert_array_equal(head, weights.params["predictor"]["head_kernel"].T)
    write_weights(path, weights, "hpm")
    assert_same_weights(read_weights(path), weights)
    write_weights(path, weights)
    params = {name: part for name, part in weights.params.items() if name != "predictor"}
    smaller = dataclasses.replace(MODEL, loss_predictor=False)
    assert_same_weights(read_weights(path), Weights(smaller, params))


def test_the_size_of_clips_is_given_or_videomaes_own(official):
    sizes = {"heads": 4, "decoder_heads": 2}
    assert from_state_dict(official, **sizes).architecture.grid == (8, 28, 28)
    weights = from_state_dict(official, **sizes, frames=32, grid=(3, 5))
    assert weights.architecture.grid == (16, 3, 5)
    with pytest.raises(WeightsError, match=r"5 frames do not split into patches of 2.*--frames"):
        from_state_dict(official, **sizes, frames=5)
    odd = to_state_dict(random_weights(dataclasses.replace(VIDEO_ENCODER, patch_size=5)))
    with pytest.raises(WeightsError, match=r"patches of 5 pixels.*clips of 224.*--grid"):
        from_state_dict(odd, heads=4)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (512, 8), (640, 8), (64, 0)])
def test_decoder_heads_by_width(width, heads):
    """VideoMAE's decoders have other heads than MAE's of the same width."""
    sizes = DECODER | {"decoder_width": width, "decoder_heads": 4}
    state = to_state_dict(random_weights(dataclasses.replace(VIDEO_ENCODER, **sizes)))
    assert from_state_dict(state, heads=4).architecture.decoder_heads == heads


# --- Hugging Face's names

INSIDE = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
BIASES = {
    "in files": {"q_bias": "q_bias", "v_bias": "v_bias"},
    "in models since 5": {"q_bias": "query.bias", "v_bias": "value.bias"},
}


def hugging_face(state, spelling):
    """VideoMAE's names to Hugging Face's."""
    found = {}
    for name, value in state.items():
        name = name.removeprefix("encoder.")
        block = re.match(r"(decoder\.)?blocks\.(\d+)\.(.+)", name)
        if not block:
            name = re.sub(r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection.", name)
            name = re.sub(r"^norm\.", "layernorm.", name)
            name = re.sub(r"^head\.", "classifier.", name)
            inside = name.startswith(("embeddings", "layernorm"))
            found[f"videomae.{name}" if inside else name] = value
            continue
        start = "decoder.decoder_layers" if block.group(1) else "videomae.encoder.layer"
        kind, end = block.group(3).rsplit(".", 1)
        start = f"{start}.{block.group(2)}"
        if kind == "attn.qkv":
            for part, array in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                found[f"{start}.attention.attention.{part}.weight"] = array
        elif kind == "attn":
            found[f"{start}.attention.attention.{BIASES[spelling][end]}"] = value
        else:
            found[f"{start}.{INSIDE[kind]}.{end}"] = value
    return found


@pytest.mark.parametrize("spelling", BIASES)
def test_hugging_face_names(official, spelling):
    state = hugging_face(official, spelling)
    assert len(state) == len(official) + 2 * 4, "three matrices for one in four blocks"
    assert_same_weights(from_state_dict(state, **SIZES), from_state_dict(official, **SIZES))
    encoder = {n.removeprefix("videomae."): v for n, v in state.items() if n[:9] == "videomae."}
    theirs = from_state_dict(encoder, heads=4, grid=(4, 4))
    whole = from_state_dict(official, **SIZES)
    jax.tree.map(np.testing.assert_array_equal, theirs.params["encoder"], whole.params["encoder"])
    tuned = random_weights(CLASSIFIER)
    state = hugging_face(to_state_dict(tuned), spelling)
    assert "classifier.bias" in state
    assert_same_weights(from_state_dict(state, heads=4, grid=(3, 5), frames=4), tuned)
    state.pop(next(name for name in state if "key" in name))
    with pytest.raises(WeightsError, match=r"attn\.qkv\.weight is query, .* key is missing"):
        from_state_dict(state, heads=4)


def test_hugging_face_folder(official, tmp_path):
    """Its config tells heads, frames and pixels."""
    save_file(hugging_face(official, "in files"), tmp_path / "model.safetensors")
    config = {"model_type": "videomae", "num_frames": 6, "image_size": [24, 40], "patch_size": 8}
    config |= {"num_attention_heads": 4, "decoder_num_attention_heads": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    a = read_weights(tmp_path).architecture
    assert (a.grid, a.heads, a.decoder_heads) == ((3, 3, 5), 4, 8)
    assert read_weights(tmp_path, frames=8).architecture.grid == (4, 3, 5)


# --- the command, and what starts from such weights


@pytest.mark.parametrize("names", [None, "hpm"])
def test_command(tmp_path, capsys, names):
    source, target = tmp_path / "source.npz", tmp_path / "target.safetensors"
    write_weights(source, random_weights(MODEL), "hpm")
    chosen = ["--names", names] if names else []
    command.main([str(source), str(target), *chosen, "--check"])
    said = capsys.readouterr().out
    assert "videos       4 x 12 x 20, 3 channels, 30 patches of 2 x 4 x 4" in said
    assert "decoder      width 16, 1 blocks, 2 heads" in said
    assert "reconstruction   largest difference 0.0e+00" in said
    assert ("predicted loss" in said) == (names == "hpm")


def test_command_takes_the_size_of_clips(official, tmp_path, capsys):
    source = tmp_path / "theirs.npz"
    np.savez(source, **official)
    sizes = ["--heads", "4", "--decoder-heads", "2", "--frames", "4", "--grid", "2", "3"]
    command.main([str(source), str(tmp_path / "ours.npz"), *sizes])
    command.main([str(tmp_path / "ours.npz")])
    said = capsys.readouterr().out
    assert said.count("videos       4 x 16 x 24, 3 channels, 12 patches of 2 x 8 x 8") == 2


@pytest.mark.parametrize("part", ["reconstructor", "predictor", "encoder"])
def test_differences_see_every_part(part):
    weights = random_weights(MODEL)
    params = jax.tree.map(np.copy, weights.params)
    params[part]["transformer"]["blocks"]["attention"]["query_value_bias"][0, 1] += 1
    found = differences(weights, Weights(MODEL, params))
    seen = {"reconstructor": {"reconstruction"}, "predictor": {"predicted loss"}}
    everything = {"encoder", "features", "reconstruction", "predicted loss"}
    assert {name for name, d in found.items() if d > 1e-4} == seen.get(part, everything)


RUN = {
    "data": {"source": "synthetic", "frames": 4, "image_size": (12, 20), "channels": 3},
    "model": {"layout": "videomae", "tubelet": 2, "width": 32, "depth": 2, "heads": 4}
    | {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "mask": {"unit": "tube"},
    "evaluation": {"pool": "mean"},
}
RUN["data"] |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def run_config(**changes):
    return freeze(inherit(changed(changed(small_options(), RUN), changes)))


@pytest.mark.parametrize("layout", ["videomae", "mae_st"])
def test_workdir(tmp_path, layout):
    config = run_config(model={"layout": layout})
    model = build_model(config)
    params = random_like(param_shapes(model))
    workdir = open_workdir(tmp_path / "run", config)
    with checkpoints(workdir / "checkpoints", keep=1) as saved:
        saved.save(fresh_state(params, build_optimizer(config), teacher=True))
    weights = read_weights(workdir, which="teacher")
    assert masked_autoencoder(weights) == model.clone(unroll=1)
    jax.tree.map(np.testing.assert_array_equal, masked_autoencoder_params(weights), params)
    command.main([str(workdir), str(tmp_path / "a.npz"), "--names", "hpm", "--weights", "teacher"])
    assert_same_weights(read_weights(tmp_path / "a.npz"), weights)


def test_pre_training_starts_from_it(tmp_path):
    """The loss predictor, which VideoMAE does not have, starts afresh."""
    path, said = tmp_path / "videomae.npz", []
    write_weights(path, random_weights(MODEL))
    config = run_config(init_from=str(path))
    model, method = build_model(config), build_method(config)
    start = pretrain.load_start(config, model, method, said.append)
    jax.tree.map(np.testing.assert_array_equal, start, read_weights(path).params)
    assert re.search(r"\d+ parameters matched; new: predictor/", said[0])
    assert "reconstructor" not in said[0], "the target is as wide as theirs"


def test_fine_tuning_and_reports_start_from_it(tmp_path):
    path = tmp_path / "videomae.npz"
    write_weights(path, random_weights(MODEL))
    config = freeze(inherit(task_options("finetune", path, data={"source": "synthetic"})))
    assert (config.data.frames, config.data.image_size, config.data.channels) == (4, (12, 20), 3)
    assert (config.model.layout, config.patch_size) == ("videomae", (2, 4, 4))
    weights = read_weights(path)
    start = finetune.load_start(config, build_classifier(config, 7), lambda line: None)
    encoder = weights.params["encoder"]
    blocks = {"transformer": {"blocks": encoder["transformer"]["blocks"]}}
    expected = {"encoder": encoder | blocks}
    jax.tree.map(np.testing.assert_array_equal, start, expected)

    longer = (8, 12, 20)  # constants follow the clip
    weights = starting_weights(str(path), "student", seed=0)
    encoder, params = frozen_encoder(weights, longer, Features(pool="mean"))
    patches = jnp.asarray(np.random.default_rng(0).normal(size=(1, 60, 96)), jnp.float32)
    tokens = jax.jit(encoder.apply)({"params": params}, patches)
    model = masked_autoencoder(weights).clone(grid=(4, 3, 5))
    encode = jax.jit(lambda p: model.apply({"params": p}, patches, method="encode"))
    np.testing.assert_allclose(tokens, encode(masked_autoencoder_params(weights)), atol=1e-5)
    fresh = starting_weights(str(path), "random", seed=0)
    assert jax.tree.structure(fresh.params["encoder"]) == jax.tree.structure(params)
