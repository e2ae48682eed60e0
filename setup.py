"""What pyproject.toml can't say: the published checkpoints are installed as a part of the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["metaad_zoo*"]), "metaad_zoo._checkpoints"],
    package_dir={"metaad_zoo._checkpoints": "checkpoints"},
)
