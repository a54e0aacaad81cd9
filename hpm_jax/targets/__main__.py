"""Fits what a target needs to training images: a codebook, or principal components.

    python -m hpm_jax.targets codes codes.npz --config configs/hpm_in1k.py:B --codes 8192
    python -m hpm_jax.targets codes codes.npz --of "hog(bins=9)" --config configs/hpm_in1k.py:B
    python -m hpm_jax.targets pca pca.npz --config configs/hpm_in1k.py:B

The images are the first ones of a fixed random order, centre crops of the size of the config;
`--config.NAME=VALUE` changes the config, as for `hpm_jax.main`.
"""

import sys

from absl import app, flags

from hpm_jax.main import parse

BATCH = 100


def main(argv: list[str]) -> None:
    """Fits and writes one file."""
    from hpm_jax.config import ConfigError, freeze
    from hpm_jax.errors import one_sentence
    from hpm_jax.targets.codes import fit_codebook
    from hpm_jax.targets.fitted import write_arrays
    from hpm_jax.targets.low_variance import fit_components

    options = flags.FLAGS
    with one_sentence():
        if len(argv) != 3 or argv[1] not in ("codes", "pca") or options.config is None:
            raise ConfigError(
                "expected what to fit, the file to write and a config, as in "
                "python -m hpm_jax.targets codes codes.npz --config configs/hpm_in1k.py:B"
            )
        what, path = argv[1:]
        config = freeze(options.config)
        if config.task != "pretrain":
            raise ConfigError(f"config.task = {config.task!r}: expected a config of pre-training")
        values = values_of(config, "pixels" if what == "pca" else options.of, options.images)
        if what == "pca":
            components, variances = fit_components(values)
            write_arrays(path, components=components, variances=variances)
            held = (variances[0].cumsum() / variances.sum()).searchsorted(0.9) + 1
            print(f"{path}: {len(components)} components; {held} hold 90 % of the variance")
            return
        if len(values) < options.codes:
            raise ConfigError(
                f"--codes = {options.codes}, and {options.images} images have {len(values)} "
                "patches: raise --images, or lower --codes"
            )
        codebook, explained = fit_codebook(values, options.codes)
        write_arrays(path, codebook=codebook)
        print(f"{path}: {len(codebook)} codes of {options.of!r} explain {explained:.1%} of them")


def values_of(config, call: str, images: int):
    """Returns the values of a target on training images, `[N, D]` float32."""
    import jax
    import numpy as np

    from hpm_jax.config import ConfigError
    from hpm_jax.data.pipeline import test_images
    from hpm_jax.run.build import build_tokenizer
    from hpm_jax.targets import Target, TargetContext
    from hpm_jax.tasks.data import load_data

    target = Target.parse_call(call, "--of")
    if target.reads:
        raise ConfigError(f"--of = {call!r} reads the teacher of a run: expected another target")
    target.check(config)
    tokenizer, setting = build_tokenizer(config), config.setting
    frozen = target.load(setting)
    records = load_data(config).train
    order = np.random.default_rng(0).permutation(len(records))[:images]

    @jax.jit
    def run(frozen, batch):
        return target(TargetContext(tokenizer(batch), config.grid, tokenizer, frozen))

    parts = []
    for start in range(0, len(order), BATCH):
        batch, _, _ = test_images(records, order[start : start + BATCH], config)
        parts.append(np.asarray(run(frozen, batch)))
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])


if __name__ == "__main__":
    flags.DEFINE_string("of", "normalized_pixels", "The target whose values are coded")
    flags.DEFINE_integer("codes", 8192, "Number of codes", 2)
    flags.DEFINE_integer("images", 2000, "Number of training images", 1)
    sys.exit(app.run(main, flags_parser=parse))
