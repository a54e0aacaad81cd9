"""Plugs from a module of the user's own, through training, resume, report, fine-tuning, convert."""

import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small import changed, small_options, task_options

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.write import write_weights
from hpm_jax.fields import as_dict
from hpm_jax.masking import Strategy
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks.finetune import finetune
from hpm_jax.tasks.pretrain import pretrain
from hpm_jax.tasks.report import report

EXAMPLES = Path(__file__).parents[2] / "docs" / "extend.md"
FROZEN = '''

@register("projected")
class Projected(Target):
    """Each patch through a fixed matrix, as of a network in a file."""

    size: int = option(5, "values", low=1)

    def width(self, setting):
        return self.size

    def load(self, setting):
        shape = (setting.tokenizer.values, self.size)
        return {"matrix": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}

    def __call__(self, context):
        return context.patches @ context.frozen["matrix"]
'''
CASES = {
    "strategy": {"mask": {"strategy": "contrast(noise=0.5)"}},
    "target": {"target": "thumbnail(side=3)"},
    "frozen": {"target": "projected(size=7)"},
    "features": {"target": "teacher_features", "objective": "cosine"},
    "loss": {"losses": ("ranking", "brightness(weight=0.1)")},
    "decoder": {"decoder": "summary(layers=2)"},
    "state": {"mask": {"strategy": "group_hard(bits=4)"}},
    "token": {"mask": {"replaced": 0.25, "ratio_end": 0.5}},
}


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The examples of the page, in a module that is no part of the package."""
    folder = tmp_path_factory.mktemp("modules")
    blocks = re.findall(r"```python\n(.+?)```", EXAMPLES.read_text(), re.S)
    blocks = [block for block in blocks if "@register(" in block]
    assert len(blocks) == 4
    (folder / "my_plugs.py").write_text("import numpy as np\n" + "\n\n".join(blocks) + FROZEN)
    sys.path.insert(0, str(folder))
    yield "my_plugs"
    sys.path.remove(str(folder))
    sys.modules.pop("my_plugs", None)


def config_of(module, changes):
    options = small_options()
    options.modules = (module,)
    options.optimizer.update(epochs=3, warmup_epochs=0.5)
    options.evaluation.every_epochs = 3.0
    options.run.log_every_steps = 1
    return freeze(changed(options, changes))


def leaves(workdir):
    state = load_run(workdir).state
    return [np.asarray(x) for x in jax.tree.leaves((state.params, state.teacher, state.plugs))]


@pytest.mark.parametrize("case", CASES)
def test_a_plug_of_ones_own(case, module, tmp_path):
    config = config_of(module, CASES[case])
    workdir = tmp_path / "run"
    assert pretrain(config, workdir) == 0
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "reconstruction" in line]
    assert np.isfinite([line["loss"] for line in lines]).all()
    before = leaves(workdir)
    if case == "loss":
        run = load_run(workdir)
        assert {"brightness", "brightness_rms"} <= set(lines[-1])
        assert run.state.params["terms"]["brightness"]["kernel"].shape == (16, 1)
        assert lines[-1]["brightness"] < lines[0]["brightness"]
    if case == "target":
        head = load_run(workdir).state.params["reconstructor"]["head"]["kernel"]
        assert head.shape[-1] == 9

    # --- resume: the newest checkpoint is gone, and the run makes it again, bit for bit
    steps = sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(steps[-1])
    assert pretrain(config, workdir) == 0
    for one, other in zip(before, leaves(workdir), strict=True):
        np.testing.assert_array_equal(one, other)

    # --- its encoder is used by others, and leaves as a file
    probes = {"names": ("knn",), "neighbors": (5,)}
    options = inherit(task_options("report", workdir, probes=probes))
    assert report(freeze(options), tmp_path / "report") == 0
    recipe = {"epochs": 1, "batch_size": 64, "warmup_epochs": 0.5}
    options = inherit(task_options("finetune", workdir, optimizer=recipe))
    assert finetune(freeze(options), tmp_path / "finetuned") == 0
    weights = read_weights(workdir)
    path = tmp_path / "weights.npz"
    # a decoder of one's own has no names elsewhere
    names, parts = ("timm", ()) if case == "decoder" else ("hpm", ("reconstructor", "predictor"))
    write_weights(path, weights, names)
    again = read_weights(path, heads=2, decoder_heads=2)
    for name in ("encoder", *parts):
        found, expected = (jax.tree.leaves(w.params[name]) for w in (again, weights))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_frozen_weights_are_in_no_checkpoint(module, tmp_path):
    config = config_of(module, CASES["frozen"])
    assert pretrain(config, tmp_path) == 0
    state = load_run(tmp_path).state
    assert state.frozen["target"]["matrix"].shape == (16, 7)
    saved = tmp_path / "checkpoints"
    files = [path.relative_to(saved).as_posix() for path in saved.rglob("*")]
    assert files and not any("matrix" in name for name in files)


def test_a_plug_that_is_gone(module, tmp_path):
    config = config_of(module, CASES["strategy"])
    options = json.loads(json.dumps(as_dict(config)))
    options["modules"] = ["my_plugz"]
    with pytest.raises(ConfigError, match=r"config.modules has 'my_plugz', which cannot be imp"):
        freeze(options)
    gone = dict(options, modules=[], mask=dict(options["mask"], strategy="contrasts(noise=0.5)"))
    with pytest.raises(ConfigError, match=r"no mask strategy 'contrasts': did you mean 'contrast"):
        freeze(gone)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("hrad", "did you mean 'hard'"),
        ("hard(strat=0.1)", "hard.strat does not exist: did you mean 'start'"),
        ("hard(start='a')", "hard.start = 'a': expected float"),
        ("hard(start=1.5)", "hard.start = 1.5: expected a number from 0 to 1"),
        ("hard(start=1e999)", "hard.start = inf: expected a finite number"),
        ("hard(0.5)", "give options by name"),
        ("hard(**{})", "give options by name"),
        ("hard(start=__import__('os').system('true'))", "is no literal, and nothing in a config"),
        ("os.system('true')", "expected a mask strategy"),
        ("hard(", "expected a mask strategy"),
        ("", "expected a mask strategy"),
        ("hard; hard", "expected a mask strategy"),
        ("(" * 10000, "expected a mask strategy"),
        (3, "expected a mask strategy"),
    ],
)
def test_calls_that_name_nothing(call, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Strategy.parse_call(call, "config.mask.strategy")


def test_a_call_is_read_back():
    for call in ("hard(start=0.25, end=0.5, schedule='step')", "random", "group_hard(bits=3)"):
        plug = Strategy.parse_call(call, "x")
        assert Strategy.parse_call(plug.call, "x") == plug == Strategy.parse_call(str(plug), "x")
