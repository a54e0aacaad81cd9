"""What pyproject.toml cannot say: the folder `configs` is installed as a part of the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hpm_jax*"]), "hpm_jax.configs"],
    package_dir={"hpm_jax.configs": "configs"},
)
