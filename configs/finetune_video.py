"""Fine-tuning on Kinetics-400, Something-Something v2 or UCF101: VideoMAE's recipes, and mae_st's.

    python -m hpm_jax.main --config configs/finetune_video.py:k400,size=B \
        --config.init_from=runs/hpm_k400_b --workdir runs/hpm_k400_b_finetuned \
        --config.data.path=/data/k400

Variants: the data k400 (the default), ssv2 or ucf101; size=S, B (the default), L or H, and
pretraining=800, the epochs of pre-training, which choose one of the published recipes (without
pretraining= the first for the size); recipe=videomae (the default) or recipe=mae_st, which is for
L on k400; epochs=, if not the recipe's own. `init_from` is a workdir or a file of weights of any
size, of the recipe's layout (or set --config.model.layout). The path is that of the lists train.csv
and val.csv. Tested on 5 clips of 3 crops (k400 and ucf101), 2 of 3 (ssv2) or 10 of 3 (mae_st), each
video counted once.

Papers: VideoMAE (NeurIPS 2022), scripts/; mae_st (NeurIPS 2022), FINETUNE.md. All numbers of the
recipes are in hpm_jax/config/video_recipes.py.
Hardware: VideoMAE's ViT-B took 64 GPUs. Use --config.optimizer.accumulation on fewer.
Expected top-1, from the official READMEs, after pre-training for 1600 epochs on k400: S 79.0,
B 81.5 (80.0 after 800), L 85.2, H 86.6; for 2400 on ssv2: S 66.8, B 70.8 (69.6 after 800); for
3200 on ucf101: B 91.3; mae_st L 84.35 after 400 epochs of 4 clips of each video. This config has
not been run here to its end.
"""

import ml_collections

from hpm_jax.config import ConfigError, check_choice, parse_variant
from hpm_jax.config.video_recipes import find_finetuning, finetuning_config, mae_st_finetuning
from hpm_jax.models.sizes import VIDEO_SIZES

DATA = ("k400", "ssv2", "ucf101")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(
        variant, DATA, data="k400", size="", pretraining=0, recipe="videomae", epochs=0
    )
    if check_choice("recipe", chosen["recipe"], ("videomae", "mae_st")) == "mae_st":
        given = chosen["data"], chosen["size"] or "L", chosen["pretraining"] or 400
        if given != ("k400", "L", 400):
            raise ConfigError(
                f"recipe=mae_st is published for k400,size=L,pretraining=400, not for {given[0]},"
                f"size={given[1]},pretraining={given[2]}: it fits weights of any size, so leave "
                "size= and pretraining= out."
            )
        config = mae_st_finetuning()
    else:
        size = check_choice("size", chosen["size"] or "B", VIDEO_SIZES)
        recipe = find_finetuning(chosen["data"], size, chosen["pretraining"])
        config = finetuning_config(recipe)
    config.optimizer.epochs = chosen["epochs"] or config.optimizer.epochs
    return config
