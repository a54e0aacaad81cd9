"""Our HPM step against the mathematics of the official one, in plain PyTorch, in one run.

    pip install torch
    python -m benchmarks.pytorch_hpm --size S --batch 16
    python -m benchmarks.pytorch_hpm --size S --batch 16 --apart
    python -m benchmarks.pytorch_hpm --size B --batch 256 --dtype bfloat16 --attention cudnn

`pytorch` computes as the official step does (models_mae_learn_loss.py, engine_pretrain.py of
https://github.com/Haochen-Wang409/HPM): attention by its formula, the teacher with its
reconstructor, a mask for one image after the other on the host, every pair of the ranking loss
twice. `pytorch, fused` computes the same numbers with what PyTorch has for it: fused attention, a
fused AdamW, averages of all tensors at once, masks of the batch on the device, and a teacher
without reconstructor. `--compile` compiles the model of both. They take turns with our step. Prints
images a second, and how many times as many ours makes.

On a CPU, all three have the memory allocator of our command (hpm_jax/run/allocator.py). With
`--apart` each has a process of its own, and those of PyTorch have the allocator of the C library,
as PyTorch's users have.
"""

import argparse
import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from hpm_jax.run.allocator import choose_allocator

if __name__ == "__main__":
    choose_allocator()  # before NumPy and JAX are imported

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.steps import Take, in_turns, noise_config, our_step, utilisation
from hpm_jax.models.sizes import SIZES

CONTENDERS = ("hpm_jax", "pytorch", "pytorch, fused")
EPS = 1e-6  # of every norm, of the normalised target, and inside the logarithm of the ranking loss


class Attention(nn.Module):
    """Self-attention of timm, by its formula or by PyTorch's fused kernel."""

    def __init__(self, width: int, heads: int, fused: bool):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, D]` to the same."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if self.fused:
            out = functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5
            out = scores.softmax(dim=-1) @ value
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int, heads: int, fused: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn = Attention(width, heads, fused)
        self.mlp = nn.Sequential()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, D]` to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(x))))


class HardPatches(nn.Module):
    """The masked autoencoder with a loss predictor, under the official names."""

    def __init__(self, sizes: dict[str, int], side: int, fused: bool = False):
        super().__init__()
        patch, width, inner = sizes["patch_size"], sizes["width"], sizes["decoder_width"]
        self.patches, values = (side // patch) ** 2, 3 * patch**2

        def blocks(count: int, width: int, heads: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, heads, fused) for _ in range(count))

        def decoder() -> nn.ModuleList:
            return blocks(sizes["decoder_depth"], inner, sizes["decoder_heads"])

        def frozen(width: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(1, 1 + self.patches, width), requires_grad=False)

        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed, self.decoder_pos_embed = frozen(width), frozen(inner)
        self.blocks = blocks(sizes["depth"], width, sizes["heads"])
        self.norm = nn.LayerNorm(width, EPS)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, inner))
        self.decoder_blocks, self.decoder_blocks_losspred = decoder(), decoder()
        self.decoder_norm = nn.LayerNorm(inner, EPS)
        self.decoder_norm_losspred = nn.LayerNorm(inner, EPS)
        self.decoder_pred = nn.Linear(inner, values)
        self.decoder_pred_losspred = nn.Linear(inner, values)

    def decoder_input(self, images: Tensor, mask: Tensor) -> Tensor:
        """The encoder, and what both decoders start from: cls, visible, hidden `[B, 1 + L, D]`.

        Args:
            images: `[B, 3, H, W]`, normalised.
            mask: `[B, L]` bool, True where a patch is hidden; as many in every image.
        """
        count = len(images)
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        x = x[~mask].reshape(count, -1, x.shape[-1])
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(count, -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        positions = self.decoder_pos_embed[:, 1:].expand(count, -1, -1)
        seen, unseen = (
            positions[chosen].reshape(count, -1, x.shape[-1]) for chosen in (~mask, mask)
        )
        first = x[:, :1] + self.decoder_pos_embed[:, :1]
        return torch.cat([first, x[:, 1:] + seen, self.mask_token + unseen], dim=1)

    def reconstructed(self, x: Tensor) -> Tensor:
        """Values of every patch `[B, L, P]`, visible ones first."""
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def predicted_loss(self, x: Tensor) -> Tensor:
        """Predicted loss of every patch `[B, L]`, visible ones first."""
        for block in self.decoder_blocks_losspred:
            x = block(x)
        return self.decoder_pred_losspred(self.decoder_norm_losspred(x))[:, 1:].mean(dim=-1)

    def forward(self, images: Tensor, mask: Tensor, reconstruct: bool = True) -> tuple[Any, Tensor]:
        """Values `[B, L, P]` (None without `reconstruct`) and predicted losses `[B, L]`."""
        x = self.decoder_input(images, mask)
        values = self.reconstructed(x) if reconstruct else None
        return values, self.predicted_loss(x.clone())


def target_of(images: Tensor, patch: int) -> Tensor:
    """Pixels of every patch, standardised by their own mean and variance `[B, L, P]`."""
    count, channels, height, width = images.shape
    x = images.reshape(count, channels, height // patch, patch, width // patch, patch)
    x = torch.einsum("bchpwq->bhwpqc", x).reshape(count, -1, channels * patch**2)
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + EPS) ** 0.5


def ranking_loss(predicted: Tensor, losses: Tensor) -> Tensor:
    """Binary cross entropy of each ordered pair of hidden patches, `[B, M]` and `[B, M]`."""
    first, second = losses[:, :, None], losses[:, None, :]
    above, below = (second > first).float(), (second < first).float()
    chance = torch.sigmoid(predicted[:, None, :] - predicted[:, :, None])
    loss = -above * torch.log(chance + EPS) - below * torch.log(1 - chance + EPS)
    return loss.sum() / (above.sum() + below.sum())


def losses_of(model: Any, images: Tensor, mask: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """The reconstruction loss and the ranking loss of a batch under a mask."""
    values, predicted = model(images, mask)
    hidden = int(mask[0].sum())
    target = target_of(images, patch)[mask].reshape(len(images), hidden, -1)
    losses = (values[:, -hidden:].float() - target).pow(2).mean(dim=-1)
    return losses.mean(), ranking_loss(predicted[:, -hidden:].float(), losses.detach())


def masks_one_by_one(predicted: Tensor, hidden: int, hard: int) -> Tensor:
    """`hard` patches of the highest predicted loss and others at random, on the host."""
    order = predicted.argsort(dim=1).cpu().numpy()
    masks = np.zeros(predicted.shape, dtype=bool)
    for mask, easy_to_hard in zip(masks, order, strict=True):
        others = easy_to_hard[: len(easy_to_hard) - hard].copy()
        np.random.shuffle(others)
        mask[others[: hidden - hard]] = True
        mask[easy_to_hard[len(easy_to_hard) - hard :]] = True
    return torch.from_numpy(masks).to(predicted.device)


def masks_at_once(predicted: Tensor, hidden: int, hard: int) -> Tensor:
    """The same for the whole batch, on the device."""
    rank = predicted.argsort(dim=1).argsort(dim=1)
    score = torch.rand_like(predicted, dtype=torch.float32)
    score = score + 2 * (rank >= predicted.shape[1] - hard)
    return score.argsort(dim=1).argsort(dim=1) >= predicted.shape[1] - hidden


def average_one_by_one(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """The moving average, a tensor at a time."""
    ours = student.state_dict()
    for name, average in teacher.state_dict().items():
        average.copy_(average * decay + (1.0 - decay) * ours[name])


def average_at_once(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """The moving average, all tensors in few kernels."""
    averages = [parameter.data for parameter in teacher.parameters()]
    torch._foreach_lerp_(averages, [x.data for x in student.parameters()], 1.0 - decay)


def their_step(
    size: str, side: int, batch: int, dtype: str, fused: bool, compiled: bool = False
) -> Take:
    """A step in PyTorch: teacher, masks, both losses, AdamW, moving average."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = SIZES[size]
    patch = sizes["patch_size"]
    student = HardPatches(sizes, side, fused).to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    learned = [x for x in student.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(learned, 1e-4, (0.9, 0.95), weight_decay=0.05, fused=fused)
    forward: Callable[..., Any] = torch.compile(student) if compiled else student
    look: Callable[..., Any] = torch.compile(teacher) if compiled else teacher
    masks = masks_at_once if fused else masks_one_by_one
    average = average_at_once if fused else average_one_by_one
    images = torch.randn(batch, 3, side, side, device=device)
    nothing = torch.zeros(batch, student.patches, dtype=torch.bool, device=device)
    hidden = student.patches - int(student.patches * 0.25)

    def take() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            with torch.no_grad():
                predicted = look(images, nothing, reconstruct=not fused)[1]
            mask = masks(predicted.float(), hidden, hidden // 2)
            loss = sum(losses_of(forward, images, mask, patch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 5.0)
        optimizer.step()
        with torch.no_grad():
            average(teacher, student, 0.9999)
        loss.item()

    return take


def build(name: str, options: argparse.Namespace) -> Take:
    """A step of the size of the options: that of hpm_jax, or one in PyTorch."""
    if name == "hpm_jax":
        return our_step(config_of(options))
    sizes = options.size, options.side, options.batch, options.dtype
    return their_step(*sizes, fused="fused" in name, compiled=options.compile)


def config_of(options: argparse.Namespace) -> Any:
    """The config of our step."""
    sizes = options.size, options.side, options.batch
    model = {"dtype": options.dtype, "attention": options.attention}
    return noise_config(*sizes, clip=5.0, unroll=0, **model)


def build_apart(name: str) -> Take:
    """The same in a process of its own, which takes a step for each line that it reads."""
    environment = dict(os.environ)
    if name != "hpm_jax":
        environment["LD_PRELOAD"] = ""  # the allocator of PyTorch's own users
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.pytorch_hpm", *sys.argv[1:], "--serve", name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    write, read = process.stdin, process.stdout

    def take() -> None:
        print(file=write, flush=True)
        if not read.readline():
            raise RuntimeError(f"the process of {name} has ended")

    return take


def serve(take: Take) -> None:
    """Takes a step for each line of the standard input, and answers with a line."""
    for _ in sys.stdin:
        take()
        print(flush=True)


def compare(options: argparse.Namespace) -> list[str]:
    """The lines of the result."""
    takes = {
        name: build_apart(name) if options.apart else build(name, options) for name in CONTENDERS
    }
    seconds = in_turns(takes, options.steps)
    ours = seconds["hpm_jax"]
    lines = ["hpm_jax: {:.0%} of {}".format(*utilisation(config_of(options), ours))]
    for name, time in seconds.items():
        rate = f"{name:<14} {options.batch / time:8.1f} images/s"
        lines.append(rate + (f", ours {time / ours:.2f} x" if name != "hpm_jax" else ""))
    return lines


def main() -> None:
    """Prints medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--side", type=int, default=224, help="side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=8, help="number of timed steps")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument(
        "--attention", choices=("xla", "cudnn"), default="xla", help="attention kernel of hpm_jax"
    )
    parser.add_argument("--apart", action="store_true", help="each in a process of its own")
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(build(options.serve, options))
    else:
        print("\n".join(compare(options)))


if __name__ == "__main__":
    main()
