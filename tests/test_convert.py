"""Weights out and in again, bit for bit; needs no torch."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small import MAE, parts_of, small_config
from small_weights import DECODER, ENCODER, official_state, random_like, random_weights

from hpm_jax.config import defaults, freeze
from hpm_jax.convert import __main__ as command
from hpm_jax.convert.check import differences
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import from_state_dict, to_state_dict
from hpm_jax.convert.weights import (
    Weights,
    WeightsError,
    classifier,
    masked_autoencoder,
    masked_autoencoder_params,
)
from hpm_jax.convert.write import write_weights
from hpm_jax.fields import as_dict
from hpm_jax.run.build import build_classifier, build_optimizer
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.state import fresh_state, init_params

SIZES = {"heads": 4, "decoder_heads": 4}  # of the golden model, which follow no rule


@pytest.fixture(scope="module")
def official():
    return official_state()


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == expected[name].dtype, name
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def assert_same_weights(actual, expected):
    assert actual.architecture == expected.architecture
    jax.tree.map(np.testing.assert_array_equal, actual.params, expected.params)


def arrays_of(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "hpm_jax"}


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
@pytest.mark.parametrize("predictor", [True, False])
def test_official_names_in_and_out(official, tmp_path, ending, predictor):
    state = {name: v for name, v in official.items() if predictor or "losspred" not in name}
    path = tmp_path / f"hpm.{ending}"
    weights = from_state_dict(state, **SIZES)
    assert weights.architecture.loss_predictor == predictor
    write_weights(path, weights, "hpm")
    assert_same(arrays_of(path), state)
    assert_same_weights(read_weights(path), weights)


@pytest.mark.parametrize(
    "architecture",
    [
        ENCODER,
        dataclasses.replace(ENCODER, classes=7),
        dataclasses.replace(ENCODER, classes=7, pool="mean"),
        dataclasses.replace(ENCODER, pool="mean"),
    ],
    ids=["encoder", "cls", "mean", "mean, headless"],
)
def test_timm_names_out_and_in(tmp_path, architecture):
    weights, path = random_weights(architecture), tmp_path / "vit.safetensors"
    write_weights(path, weights, "timm")
    state = arrays_of(path)
    norm = "fc_norm" if architecture.pool == "mean" else "norm"
    ends = {f"{norm}.weight", f"{norm}.bias"}
    ends |= {"head.weight", "head.bias"} if architecture.classes else set()
    assert {name for name in state if name.split(".")[0] in ("norm", "fc_norm", "head")} == ends
    assert state["pos_embed"].shape == (1, 16, 32)
    assert_same_weights(read_weights(path), weights)


def test_encoder_of_a_whole_model(official, tmp_path):
    """timm's names leave the decoder out, and keep the positions."""
    path = tmp_path / "vit.npz"
    write_weights(path, from_state_dict(official, **SIZES), "timm")
    decoder = ("decoder", "mask_token")
    expected = {name: v for name, v in official.items() if not name.startswith(decoder)}
    assert_same(arrays_of(path), expected)
    assert read_weights(path).architecture.decoder_width == 0


def test_files_of_others_need_no_note(official, tmp_path):
    save_file(official, tmp_path / "theirs.safetensors")
    with pytest.raises(WeightsError, match=r"width is 48.*--heads"):
        read_weights(tmp_path / "theirs.safetensors")
    weights = read_weights(tmp_path / "theirs.safetensors", heads=4, decoder_heads=4)
    assert_same_weights(weights, from_state_dict(official, **SIZES))


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.encoder."])
def test_prefixes_of_wrappers(official, prefix):
    state = {prefix + name: value for name, value in official.items()}
    assert_same_weights(from_state_dict(state, **SIZES), from_state_dict(official, **SIZES))


HUGGING_FACE = {
    "before 5": (
        ("vit.encoder.layer.", "decoder.decoder_layers."),
        {
            "attn.qkv": ["attention.attention." + x for x in ("query", "key", "value")],
            "attn.proj": "attention.output.dense",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        },
    ),
    "since 5": (
        ("vit.layers.", "decoder.decoder_layers."),
        {
            "attn.qkv": ["attention." + x for x in ("q_proj", "k_proj", "v_proj")],
            "attn.proj": "attention.o_proj",
        },
    ),
}
HUGGING_FACE["saved by 5"] = (
    ("vit.encoder.layer.", "decoder.decoder_encoder.layer."),
    HUGGING_FACE["before 5"][1],
)


def hugging_face(state, spelling):
    """Official names to Hugging Face's, without a loss predictor."""
    (encoder, decoder), in_block = HUGGING_FACE[spelling]
    in_block = {"norm1": "layernorm_before", "norm2": "layernorm_after"} | in_block
    outside = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
    }
    found = {}
    for name, value in state.items():
        if "losspred" in name:
            continue
        start, *rest = name.split(".")
        whole = name.removesuffix(".weight").removesuffix(".bias")
        end = name[len(whole) :]
        if start not in ("blocks", "decoder_blocks"):
            found[outside.get(whole, f"decoder.{whole}") + end] = value
            continue
        place = (encoder if start == "blocks" else decoder) + rest[0] + "."
        kind = whole.split(".", 2)[2]
        theirs = in_block.get(kind, kind)
        if kind == "attn.qkv":
            for part, array in zip(theirs, np.split(value, 3), strict=True):
                found[place + part + end] = array
        else:
            found[place + theirs + end] = value
    return found


@pytest.mark.parametrize("spelling", HUGGING_FACE)
def test_hugging_face_names(official, spelling):
    state = hugging_face(official, spelling)
    mae = {name: value for name, value in official.items() if "losspred" not in name}
    assert_same_weights(from_state_dict(state, **SIZES), from_state_dict(mae, **SIZES))
    encoder = {
        name.removeprefix("vit."): value
        for name, value in state.items()
        if not name.startswith("decoder.")
    }
    encoder["pooler.dense.weight"] = np.zeros((48, 48), np.float32)
    plain = to_state_dict(from_state_dict(official, **SIZES), "timm")
    assert_same_weights(from_state_dict(encoder, heads=4), from_state_dict(plain, heads=4))
    state.pop(next(name for name in state if "key" in name or "k_proj" in name))
    with pytest.raises(WeightsError, match=r"attn\.qkv\..* key is missing"):
        from_state_dict(state, **SIZES)


def test_hugging_face_folder(official, tmp_path):
    """Its config tells the heads."""
    save_file(hugging_face(official, "since 5"), tmp_path / "model.safetensors")
    config = {"model_type": "vit_mae", "num_attention_heads": 4, "decoder_num_attention_heads": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    architecture = read_weights(tmp_path).architecture
    assert (architecture.heads, architecture.decoder_heads) == (4, 8)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "quick_gelu"}))
    with pytest.raises(WeightsError, match="hidden_act is 'quick_gelu'"):
        read_weights(tmp_path)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_other_precisions_become_float32(official, tmp_path, dtype):
    state = {name: value.astype(dtype) for name, value in official.items() if "pos" not in name}
    state |= {name: value for name, value in official.items() if "pos" in name}
    save_file(state, tmp_path / "half.safetensors")
    weights = read_weights(tmp_path / "half.safetensors", heads=4)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(weights.params))
    expected = state["norm.weight"].astype(np.float32)
    np.testing.assert_array_equal(
        weights.params["encoder"]["transformer"]["norm"]["scale"], expected
    )


def save_run(folder, config):
    """The workdir of a run whose teacher differs from its student."""
    state = parts_of(config).state
    if state.teacher is not None:
        state = state.replace(teacher=jax.tree.map(lambda x: x + 1, state.teacher))
    workdir = open_workdir(folder, config)
    with checkpoints(workdir / "checkpoints", keep=1) as saved:
        saved.save(state)
    return workdir, config, state


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "hpm", small_config())


def test_workdir(workdir):
    """Student and teacher, whose encoders compute with positions what they did without."""
    path, config, state = workdir
    weights = read_weights(path)
    a = weights.architecture
    assert (a.grid, a.patch_size, a.channels, a.width) == ((1, 4, 4), 4, 1, 16)
    assert (a.heads, a.decoder_heads, a.loss_predictor, a.classes) == (2, 2, True, 0)
    model = parts_of(config).model
    assert masked_autoencoder(weights) == model.clone(unroll=1)
    jax.tree.map(np.testing.assert_array_equal, masked_autoencoder_params(weights), state.params)
    teacher = masked_autoencoder_params(read_weights(path, which="teacher"))
    jax.tree.map(np.testing.assert_array_equal, teacher, state.teacher)
    patches = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16)), jnp.float32)
    expected = jax.jit(lambda p: model.apply({"params": p}, patches, method="encode"))
    encoder = classifier(weights)
    features = jax.jit(lambda p: encoder.apply({"params": p}, patches, method="features"))
    np.testing.assert_allclose(features(weights.params), expected(state.params)[:, 0], atol=1e-6)


def test_workdir_without_a_teacher(tmp_path):
    workdir, _, _ = save_run(tmp_path / "mae", small_config(**MAE))
    assert not read_weights(workdir).architecture.loss_predictor
    with pytest.raises(WeightsError, match="this run keeps no teacher"):
        read_weights(workdir, which="teacher")


def test_workdir_of_fine_tuning(tmp_path):
    options = defaults("finetune")
    options.init_from = "runs/hpm"
    options.data.update(image_size=(16, 20), channels=1, mean=(0.5,), std=(0.5,))
    options.model.update(patch_size=4, width=16, depth=1, heads=2)
    config = freeze(options)
    workdir = open_workdir(tmp_path, config)
    (workdir / "classes.json").write_text(json.dumps(["a", "b", "c"]))
    shapes = jax.eval_shape(lambda: init_params(build_classifier(config, 3), jax.random.key(0)))
    last, best = (random_like(shapes, seed) for seed in (0, 1))
    for folder, params in (("checkpoints", last), ("best", best)):
        with checkpoints(workdir / folder, keep=1) as saved:
            saved.save(fresh_state(params, build_optimizer(config)))
    weights = read_weights(workdir)
    a = weights.architecture
    assert (a.grid, a.patch_size, a.channels, a.width, a.heads) == ((1, 4, 5), 4, 1, 16, 2)
    assert (a.classes, a.pool, a.decoder_width) == (3, "mean", 0)
    jax.tree.map(np.testing.assert_array_equal, weights.params, last)
    jax.tree.map(np.testing.assert_array_equal, read_weights(workdir / "best").params, best)


@pytest.mark.parametrize("names", ["timm", "hpm"])
def test_command(workdir, tmp_path, capsys, monkeypatch, names):
    monkeypatch.setattr(command, "timm_differences", lambda *_: {"encoder": 0.0})  # interop has it
    target = tmp_path / "new folder" / "vit.safetensors"
    command.main([str(workdir[0]), str(target), "--names", names, "--check"])
    said = capsys.readouterr().out
    assert "encoder      width 16, 1 blocks, 2 heads" in said
    assert "largest difference 0.0e+00" in said
    assert ("reconstruction" in said) == ("predicted loss" in said) == (names == "hpm")
    weights = read_weights(target)
    command.main([str(target)])
    count = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    assert f"parameters   {count:,}" in capsys.readouterr().out


def test_command_says_what_is_wrong(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: there is no nowhere$"):
        command.main(["nowhere", str(tmp_path / "x.npz")])
    with pytest.raises(SystemExit, match=r"^error: .*x\.tar ends in '\.tar': expected one of"):
        command.main(["nowhere", str(tmp_path / "x.tar")])
    (tmp_path / "config.json").write_text(json.dumps(as_dict(small_config())))
    with pytest.raises(SystemExit, match=r"^error: .* has no checkpoint yet"):
        command.main([str(tmp_path)])


def test_check_finds_a_difference(workdir, tmp_path, monkeypatch, capsys):
    def write_wrong(path, weights, names):
        params = jax.tree.map(np.copy, weights.params)
        params["encoder"]["cls_token"][..., 0] += 0.01
        write_weights(path, Weights(weights.architecture, params), names)

    monkeypatch.setattr(command, "write_weights", write_wrong)
    with pytest.raises(SystemExit, match=r"^error: .* differs by .*, expected at most 0.0001"):
        command.main([str(workdir[0]), str(tmp_path / "a.npz"), "--check"])


@pytest.mark.parametrize("part", ["reconstructor", "predictor", "encoder"])
def test_differences_see_every_part(part):
    architecture = dataclasses.replace(ENCODER, **DECODER, loss_predictor=True)
    weights = random_weights(architecture)
    params = jax.tree.map(np.copy, weights.params)
    params[part]["transformer"]["norm"]["scale"] *= 1.1
    found = differences(weights, Weights(architecture, params))
    seen = {
        "reconstructor": {"reconstruction"},
        "predictor": {"predicted loss"},
        "encoder": {"encoder", "features", "reconstruction", "predicted loss"},
    }
    assert {name for name, difference in found.items() if difference > 1e-4} == seen[part]
    assert all(difference == 0 for difference in differences(weights, weights).values())
