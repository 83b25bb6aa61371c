"""Packaging of larq_nobn."""

import json
import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(
    r'__version__ = "(.+)"', (root / "larq_nobn/__init__.py").read_text()
)[1]

# Larq needs Keras 2: TensorFlow 2.15 is the last to bring it, and the last for which
# keras-tuner takes Larq's models as they are. It has no wheels for Python 3.12, where
# TensorFlow 2.19 works with the package tf_keras: older ones of that cannot seed there,
# and newer TensorFlow needs a protobuf that larq-zoo excludes. Python 3.13, which has
# neither larq-zoo nor Larq Compute Engine, takes the newest.
old, new = "; python_version < '3.13'", "; python_version >= '3.13'"
tensorflow = [
    "tensorflow>=2.15,<2.16; python_version < '3.12'",
    "tensorflow>=2.19,<2.20; python_version == '3.12'",
    "tf_keras>=2.19,<2.20; python_version == '3.12'",
    f"tensorflow>=2.21,<2.22{new}",
    f"tf_keras>=2.21,<2.22{new}",
]
# What larq-zoo's protobuf and Larq's numpy leave of packages that others ask for. pip
# tries releases of them one by one otherwise, and Python 3.10's own downloads each.
settled = [
    f"protobuf>=3.20.3,<3.21{old}",
    f"tensorflow-metadata>=1.13,<1.15{old}",
    f"googleapis-common-protos>=1.56,<1.74{old}",
    "scipy>=1.11,<1.18",
    "contourpy>=1.2,<1.4",
]
# Published weights that travel with the package: packed, small and free to pass on.
most_bytes = 8_000_000
bundles = []
for path in sorted(root.glob("zoo/*/card.json")):
    card = json.loads(path.read_text())
    packed = card["files"].get("packed")
    if packed and packed["size"] <= most_bytes and card["redistributable"]:
        names = ("card.json", "README.md", packed["name"])
        bundles += [f"{path.parent.name}/{name}" for name in names]
# They and the recipes live at the top of the repository; see larq_nobn/_shipped.py.
shipped = {"larq_nobn.shipped.training": "training", "larq_nobn.shipped.zoo": "zoo"}

deploy = [f"larq-compute-engine>=0.16{old}", "psutil"]
tune = ["keras-tuner>=1.4.7"]

setup(
    name="larq_nobn",
    version=version,
    description="Binary neural networks without batch normalization in Keras",
    long_description=(root / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["larq_nobn", "larq_nobn.*"]), *shipped],
    package_dir=shipped,
    package_data={
        "larq_nobn.shipped.zoo": bundles,
        "larq_nobn.deploy.c": ["kernels.c"],
    },
    python_requires=">=3.10,<3.14",
    install_requires=[
        *tensorflow,
        *settled,
        "larq>=0.14,<0.15",
        f"larq-zoo>=2.4,<2.5{old}",
        f"tensorflow-datasets>=4.8.3,<4.9{old}",
        f"tensorflow-datasets>=4.9.9,<4.10{new}",
        "tensorboard>=2.15",
        "scikit-learn>=1.3,<1.10",
        "matplotlib>=3.7,<3.12",
        f"numpy>=1.26,<2{old}",
        # Larq's own metadata excludes it, so that pip finds no solution: README.md has
        # the command that does without.
        f"numpy>=2.1{new}",
        "filelock>=3.12,<5",
        "h5py>=3.10",
        "huggingface_hub>=1,<3",
        "requests>=2.32",
        "tqdm>=4.66",
        "urllib3>=2.1",
    ],
    extras_require={
        "deploy": deploy,
        "tune": tune,
        "all": [*deploy, *tune],
    },
    entry_points={"console_scripts": ["larq-nobn = larq_nobn.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: OS Independent",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
