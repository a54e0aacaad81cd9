"""An official checkpoint that goes on: the next step is the one that PyTorch's AdamW would take."""

import copy

import jax
import numpy as np
import pytest
import torch
from small import parts_of, small_config

from hpm_jax.config import ConfigError
from hpm_jax.continue_official import continue_official
from hpm_jax.convert.official import from_official
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import to_state_dict
from hpm_jax.convert.weights import WeightsError
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.step.optimizer import descend
from hpm_jax.tasks.pretrain import pretrain

FROZEN = ("pos_embed", "decoder_pos_embed")
RATE = 1e-3


class Official(torch.nn.Module):
    """Parameters under the official names, registered in the order of the official class."""

    def __init__(self, state):
        super().__init__()
        order = ["patch_embed", "cls_token", "pos_embed", "blocks", "norm", "decoder_embed"]
        order += ["mask_token", "decoder_pos_embed", "decoder_blocks", "decoder_norm"]
        order += ["decoder_pred", "decoder_blocks_losspred", "decoder_norm_losspred"]
        order += ["decoder_pred_losspred"]
        for part in order:
            for name in [name for name in state if name.split(".")[0] == part]:
                self.add(name, state[name])

    def add(self, name, value):
        *parents, last = name.split(".")
        module = self
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        learned = name not in FROZEN
        tensor = torch.nn.Parameter(torch.from_numpy(value.copy()), requires_grad=learned)
        module.register_parameter(last, tensor)


def groups_of(model, decay):
    """As timm 0.3.2 makes them: first what does not decay."""
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in learned if p.ndim == 1 or name.endswith(".bias")]
    rest = [p for name, p in learned if not (p.ndim == 1 or name.endswith(".bias"))]
    return [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": decay}]


def step_with(model, optimizer, seed):
    """One step by random gradients, which come back under their names."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    grads = {n: p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad}
    return copy.deepcopy(grads)


@pytest.fixture(scope="module")
def official(pretrained, tmp_path_factory):
    """A model after two steps in one epoch, its optimizer, and the file that HPM saves."""
    config = small_config(optimizer={"clip_norm": 0.0})
    model = Official(to_state_dict(read_weights(pretrained), "hpm"))
    optimizer = torch.optim.AdamW(groups_of(model, 0.05), lr=RATE, betas=(0.9, 0.95))
    teacher = copy.deepcopy(model)
    for seed in range(2):
        step_with(model, optimizer, seed)
    content = {
        "epoch": 1,
        "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()},
        "ema_state_dict": teacher.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model": "mae_vit_base_patch16_dec512d8b",
        "loss_scaler": {"scale": 65536.0},
    }
    path = tmp_path_factory.mktemp("official") / "hpm_temp.pth"
    torch.save(content, path)
    return config, model, optimizer, teacher, path


def assert_params_close(actual, state, atol=0.0):
    expected = from_official({n: v.detach().numpy() for n, v in state.items()})
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, wanted), ours in zip(leaves, jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=atol, err_msg=str(path))


def test_the_next_step_is_pytorch_s(official, tmp_path):
    config, model, optimizer, teacher, path = official
    continue_official(config, path, tmp_path, print)
    state = load_run(tmp_path).state
    assert int(state.step) == -(-1617 // config.optimizer.batch_size), "one epoch of 1,617 images"
    assert int(state.optimizer[1].count) == 2
    assert_params_close(state.params, model.state_dict())
    assert_params_close(state.teacher, teacher.state_dict())
    model, optimizer = copy.deepcopy((model, optimizer))  # one memory: the same parameters
    grads = from_official(step_with(model, optimizer, seed=7))
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        updates, _ = parts_of(config).optimizer.update(grads, state.optimizer, state.params)
    after = descend(state.params, updates, np.float32(RATE))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), after, state.params)
    assert max(jax.tree.leaves(moved)) > RATE / 2
    assert_params_close(after, model.state_dict(), atol=1e-6)


def test_the_run_goes_on_to_its_end(official, tmp_path, capsys):
    config, *_, path = official
    continue_official(config, path, tmp_path, print)
    assert "epoch 1, step 26 of 101" in capsys.readouterr().out
    assert pretrain(config, tmp_path) == 0
    assert "going on from step 26 of 101" in capsys.readouterr().out
    steps = [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert min(steps) > 26 and max(steps) == 101
    with pytest.raises(ConfigError, match="has checkpoints of its own already"):
        continue_official(config, path, tmp_path, print)


def test_what_the_file_lacks(official, tmp_path, capsys):
    """Without moments AdamW starts afresh, and says so; without a teacher or an epoch, no run."""
    config, *_, path = official
    content = torch.load(path)
    torch.save(content | {"optimizer": None}, tmp_path / "weights.pth")
    continue_official(config, tmp_path / "weights.pth", tmp_path / "run", print)
    assert "AdamW starts afresh" in capsys.readouterr().out
    assert int(load_run(tmp_path / "run").state.optimizer[1].count) == 0
    groups = content["optimizer"]["param_groups"]
    swapped = content["optimizer"] | {"param_groups": groups[::-1]}
    for changes, error, message in (
        ({"ema_state_dict": None}, WeightsError, "has no teacher"),
        ({"epoch": None}, WeightsError, "does not say after how many epochs"),
        ({"epoch": 4}, ConfigError, "was saved after 4 epochs, and the run has 4"),
        ({"optimizer": swapped}, WeightsError, "the optimizer's groups have"),
    ):
        torch.save(content | changes, tmp_path / "other.pth")
        with pytest.raises(error, match=message):
            continue_official(config, tmp_path / "other.pth", tmp_path / "other", print)


def test_options_that_differ_are_said(official, tmp_path, capsys):
    *_, path = official
    config = small_config(optimizer={"weight_decay": 0.1})
    continue_official(config, path, tmp_path, print)
    assert "weight_decay of AdamW: 0.05 in the file, 0.1 in the config" in capsys.readouterr().out
