"""Our MAE step against Hugging Face's `ViTMAEForPreTraining`, same shapes, in one run.

    pip install torch transformers
    python -m benchmarks.hugging_face_mae --size B --batch 256 --dtype bfloat16 --attention cudnn

Forward, backward and AdamW, on images that lie on the device. PyTorch uses scaled-dot-product
attention and autocast, and `torch.compile` where `--compile` asks for it. Our HPM step, with half
of the hidden patches hard, comes third. They take turns, so that a machine that slows down slows
all. Prints images a second, our MFU, the ratio of the two MAE steps, and of HPM's to MAE's.
"""

import argparse

from hpm_jax.run.allocator import choose_allocator

if __name__ == "__main__":
    choose_allocator()  # before NumPy and JAX are imported

import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.steps import in_turns, noise_config, our_step, utilisation
from hpm_jax.models.sizes import SIZES


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
    """Prints medians."""
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
    for line in compare(options):
        print(line)


def compare(options: argparse.Namespace) -> list[str]:
    """The lines of the result."""
    shapes = options.size, options.side, options.batch
    ours = {
        name: noise_config(
            *shapes, hpm=hpm, dtype=options.dtype, unroll=0, attention=options.attention
        )
        for name, hpm in {"hpm_jax, MAE": False, "hpm_jax, HPM": True}.items()
    }
    takes = {name: our_step(config) for name, config in ours.items()}
    sizes = SIZES[options.size]
    takes["transformers"] = theirs(sizes, *shapes[1:], options.dtype, options.compile)
    seconds = in_turns(takes, options.steps)
    lines = []
    for name, time in seconds.items():
        share = ""
        if name in ours:
            share = ", {:.0%} of {}".format(*utilisation(ours[name], time))
        lines.append(f"{name:<14} {options.batch / time:8.1f} images/s{share}")
    mae, hpm, peer = seconds.values()
    lines.append(f"ours / theirs  {peer / mae:8.2f} x images/s")
    lines.append(f"HPM / MAE      {hpm / mae:8.2f} x time")
    return lines


if __name__ == "__main__":
    main()
