"""What pyproject.toml cannot say: `configs` is part of the package, and extensions are optional."""

from setuptools import Extension, find_packages, setup

# `-ffp-contract=off`: weights have the same last bit on every processor
FLAGS = ["-O3", "-ffp-contract=off"]


def extension(name: str, **options) -> Extension:
    """Returns an extension of hpm_jax.data, left out where it cannot be compiled."""
    return Extension(
        f"hpm_jax.data.{name}",
        [f"hpm_jax/data/{name}.c"],
        extra_compile_args=FLAGS,
        py_limited_api=True,  # one build for every Python
        optional=True,
        **options,
    )


setup(
    packages=[*find_packages(include=["hpm_jax*"]), "hpm_jax.configs"],
    package_dir={"hpm_jax.configs": "configs"},
    ext_modules=[extension("_resize"), extension("_jpeg", libraries=["jpeg"])],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
