"""Pixel statistics of released encoders, and their replacement by those of a recipe.

Published VTAB-1k results differ in this (ImageNet's, 0.5, none), and it moves them: a recipe names it, and reports
print it.
"""

from typing import Any

from torch import nn

from xmodal.registry import ENCODERS, build, did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
STATISTICS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "clip": (CLIP_MEAN, CLIP_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@ENCODERS.register_module(name="with_statistics")
def with_statistics(encoder: Any, statistics: str = "imagenet") -> nn.Module:
    """Build an encoder and set how its pixels are normalized.

    Args:
        encoder: the tower or its config.
        statistics: `imagenet`, `clip`, `half` (mean and deviation 0.5), `none` (pixels in [0, 1]), or `own` for those
            of the checkpoint.

    Raises:
        ValueError: other statistics.
    """
    if statistics != "own" and statistics not in STATISTICS:
        raise ValueError(f"no statistics are called {statistics!r}; {did_you_mean(statistics, [*STATISTICS, 'own'])}")
    tower = build(encoder, ENCODERS)
    if statistics != "own":
        tower.pixel_mean, tower.pixel_std = STATISTICS[statistics]
    return tower
