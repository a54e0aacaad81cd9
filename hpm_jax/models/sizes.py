"""The sizes of vision transformers, by name."""

# MAE's decoder: 8 blocks of width 512 with 16 heads; ViT-S has 2 of them, as in the official code.
_DECODER = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16}

SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 384, "depth": 12, "heads": 6, "patch_size": 16} | _DECODER | {"decoder_depth": 2},
    "B": {"width": 768, "depth": 12, "heads": 12, "patch_size": 16} | _DECODER,
    "L": {"width": 1024, "depth": 24, "heads": 16, "patch_size": 16} | _DECODER,
    "H": {"width": 1280, "depth": 32, "heads": 16, "patch_size": 14} | _DECODER,
}
