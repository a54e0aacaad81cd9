"""What one published masked autoencoder has and another has not; the modules are the same."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layout:
    """The choices in which masked autoencoders differ, beside their sizes."""

    cls_token: bool = True  # a token before the patches that stands for the whole input
    positions: str = "sincos"  # of the patches; see `hpm_jax/models/positions.py`
    classifier_positions: str = "learned"  # the same where a classifier is fine-tuned
    key_bias: bool = True  # a softmax ignores it; VideoMAE has none
    decoder_bias: bool = True  # of the linear map from the encoder to the decoder
    decoder_cls_token: bool = False  # the decoder drops the encoder's and has one of its own
    pytorch_init: bool = False  # patch and decoder embeddings start as PyTorch's layers do
    # the names of the parameters that weight decay applies to
    decayed: tuple[str, ...] = ("kernel", "head_kernel", "cls_token", "mask_token")

    @property
    def extra_tokens(self) -> int:
        """Tokens before those of the patches: 1 or 0."""
        return int(self.cls_token)


LAYOUTS = {
    "mae": Layout(),
    "videomae": Layout(
        cls_token=False,
        positions="sinusoid",
        classifier_positions="sinusoid",
        key_bias=False,
        decoder_bias=False,
        pytorch_init=True,
        decayed=("kernel", "head_kernel"),
    ),
    "mae_st": Layout(
        positions="separable",
        classifier_positions="separable",
        decoder_cls_token=True,
        decayed=(
            *Layout().decayed,
            "positions_space",
            "positions_time",
        ),
    ),
}
