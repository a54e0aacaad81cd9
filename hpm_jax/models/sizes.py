"""The sizes of vision transformers, by name."""

# MAE's decoder: 8 blocks of width 512 with 16 heads; ViT-S has 2 of them, as in the official code.
_DECODER = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16}
_SMALL_DECODER = {"decoder_depth": 2, "patch_size": 4}

SIZES: dict[str, dict[str, int]] = {
    # for images of about 32 pixels
    "micro": {"width": 128, "depth": 6, "heads": 4, "decoder_width": 64, "decoder_heads": 2}
    | _SMALL_DECODER,
    "tiny": {"width": 192, "depth": 12, "heads": 3, "decoder_width": 96, "decoder_heads": 3}
    | _SMALL_DECODER,
    # for images of about 224 pixels
    "S": {"width": 384, "depth": 12, "heads": 6, "patch_size": 16}
    | _DECODER
    | {"decoder_depth": 2},
    "B": {"width": 768, "depth": 12, "heads": 12, "patch_size": 16} | _DECODER,
    "L": {"width": 1024, "depth": 24, "heads": 16, "patch_size": 16} | _DECODER,
    "H": {"width": 1280, "depth": 32, "heads": 16, "patch_size": 14} | _DECODER,
}
LARGE_IMAGE_SIZES = ("S", "B", "L", "H")
SMALL_IMAGE_SIZES = ("micro", "tiny")

# VideoMAE's decoders, for clips of 224 pixels (modeling_pretrain.py, and scripts/ for the depths).
VIDEO_SIZES: dict[str, dict[str, int]] = {
    "S": SIZES["S"] | {"decoder_width": 192, "decoder_depth": 4, "decoder_heads": 3},
    "B": SIZES["B"] | {"decoder_width": 384, "decoder_depth": 4, "decoder_heads": 6},
    "L": SIZES["L"] | {"decoder_width": 512, "decoder_depth": 12, "decoder_heads": 8},
    "H": SIZES["H"]
    | {"patch_size": 16, "decoder_width": 640, "decoder_depth": 12, "decoder_heads": 8},
}
