"""Our MAE step against Hugging Face's `ViTMAEForPreTraining`, same shapes, in one run.

    pip install torch transformers
    python -m benchmarks.hugging_face_mae --size B --batch 256 --dtype bfloat16 --attention cudnn

Forward, backward and AdamW, on images that lie on the device. PyTorch uses scaled-dot-product
attention and autocast, and `torch.compile` where `--compile` asks for it. Our HPM step, with half
of the hidden patches hard, comes third. They take turns, so that a machine that slows down slows
all. Prints images a second, our MFU, the ratio of the two MAE steps, and of HPM's to MAE's.
"""

import argparse
import statistics
import time

import jax
import numpy as np
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from hpm_jax.config import defaults, freeze
from hpm_jax.models.sizes import SIZES
from hpm_jax.run.build import (
    Start,
    build_flops,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
from hpm_jax.run.throughput import peak_flops
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.step import make_train_step


def config_of(options: argparse.Namespace, hpm: bool):
    """Pre-training on noise, by HPM or by MAE."""
    config = defaults()
    config.data.update(source="synthetic", image_size=(options.side, options.side))
    config.model.update(SIZES[options.size], dtype=options.dtype, unroll=0)
    config.model.attention = options.attention
    config.target = "normalized_pixels"
    if not hpm:
        config.mask.strategy, config.losses, config.teacher = "random", (), "none"
    config.optimizer.update(batch_size=options.batch, clip_norm=0.0)
    return freeze(config)


def ours(config):
    """A function that takes one step and waits for it."""
    model, method, optimizer = build_model(config), build_method(config), build_optimizer(config)
    key, shape = jax.random.key(0), (config.optimizer.batch_size, *config.data.image_size, 3)
    init = build_init(config, model, method, optimizer)
    state = jax.jit(init)(key, Start(frozen=load_frozen(method)))
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = jax.device_put(images)
    step = jax.jit(make_train_step(model, method, optimizer), donate_argnums=0)
    n_hard = config.hidden // 2 if method.uses_teacher else 0
    schedule = Schedule(np.float32(1e-4), np.float32(0), np.int32(n_hard))

    def take() -> None:
        nonlocal state
        state, metrics = step(state, images, key, schedule)
        jax.block_until_ready(metrics)

    return take


def theirs(size: dict, side: int, batch: int, dtype: str, compiled: bool):
    """The same in PyTorch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = ViTMAEConfig(
        hidden_size=size["width"],
        num_hidden_layers=size["depth"],
        num_attention_heads=size["heads"],
        intermediate_size=4 * size["width"],
        decoder_hidden_size=size["decoder_width"],
        decoder_num_hidden_layers=size["decoder_depth"],
        decoder_num_attention_heads=size["decoder_heads"],
        decoder_intermediate_size=4 * size["decoder_width"],
        image_size=side,
        patch_size=size["patch_size"],
        norm_pix_loss=True,
        attn_implementation="sdpa",
    )
    model = ViTMAEForPreTraining(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.05)
    forward = torch.compile(model) if compiled else model
    images = torch.randn(batch, 3, side, side, device=device)
    half = dtype == "bfloat16"

    def take() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = forward(images).loss
        loss.backward()
        optimizer.step()
        loss.item()

    return take


def main() -> None:
    """Takes turns, and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--side", type=int, default=224, help="side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument(
        "--attention", choices=("xla", "cudnn"), default="xla", help="attention kernel of hpm_jax"
    )
    options = parser.parse_args()
    shared = (SIZES[options.size], options.side, options.batch, options.dtype)
    configs = {
        "hpm_jax, MAE": config_of(options, hpm=False),
        "hpm_jax, HPM": config_of(options, hpm=True),
    }
    takes = {name: ours(config) for name, config in configs.items()}
    takes["transformers"] = theirs(*shared, options.compile)
    times: dict[str, list[float]] = {name: [] for name in takes}
    for turn in range(options.steps + 2):
        for name, take in takes.items():
            began = time.perf_counter()
            take()
            if turn >= 2:  # compiled and warm
                times[name].append(time.perf_counter() - began)
    rates = {name: options.batch / statistics.median(found) for name, found in times.items()}
    mae, hpm, peer = rates.values()
    peak, source = peak_flops()
    for name, rate in rates.items():
        share = ""
        if name in configs:
            share = f", {build_flops(configs[name]).total * rate / peak:.0%} of {source}"
        print(f"{name:<14} {rate:8.1f} images/s{share}")
    print(f"ours / theirs  {mae / peer:8.2f} x images/s")
    print(f"HPM / MAE      {mae / hpm:8.2f} x time")


if __name__ == "__main__":
    main()
