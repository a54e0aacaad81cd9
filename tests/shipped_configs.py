"""The config files of the package, with the variants of each that tests build."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from small_weights import random_weights

from hpm_jax.config import Config, ConfigError, freeze
from hpm_jax.convert.weights import Architecture
from hpm_jax.convert.write import write_weights
from hpm_jax.targets.fitted import write_arrays

CONFIGS = Path(__file__).parent.parent / "configs"
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
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config() if variant is None else module.get_config(variant)


EVERY = pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name in VARIANTS for variant in VARIANTS[name]]
)


def write_files(folder: Path) -> None:
    """Files that configs name: an encoder, narrow and as deep as a ViT-L, and a codebook."""
    sizes = {"patch_size": 16, "channels": 3, "width": 16, "depth": 24, "heads": 4}
    weights = random_weights(Architecture((1, 14, 14), **sizes))
    write_weights(folder / "encoder.npz", weights, "timm")
    write_arrays(folder / "codes.npz", codebook=np.eye(24, 16, dtype=np.float32))


def frozen(name: str, variant: str | None, files: Path) -> Config:
    """The config of a variant, with the files of `write_files` where it needs weights."""
    options, teacher = load(name, variant), files / "encoder.npz"
    if name in ("maskdistill_in1k", "dmae_in1k", "maskalign_in1k", "hybrid_distill_in1k"):
        with pytest.raises(ConfigError, match="path is empty: expected a file of weights"):
            freeze(options)
        both = f"mae={teacher},clip={teacher},parts=4"
        options = load(name, both if name == "hybrid_distill_in1k" else f"teacher={teacher}")
    if name == "beit2_in1k":
        options = load(name, f"teacher={teacher},codes={files / 'codes.npz'}")
    if "init_from" in options and options.task != "pretrain":
        options.init_from = "runs/x"
    return freeze(options)
