"""All few-shot methods trained on 16 plain pictures a class and tested on other styles of them: shipped tiny CLIP.

The tiny CLIP knows plain pictures from its pretraining (zero-shot is nearly right there), so that this shows what few shots of a
known domain cost on others: gray pictures, noisy ones and photographic negatives.
Command: python tools/fewshot.py configs/fewshot/tiny-clip_styles.py --shots 16 --seeds 1 2 3
Protocol: CoOp's for shifted test sets; 16 classes, drawn here; nothing is downloaded. Rates of tiny-clip_negatives16.py, not tuned.
Measured here: see docs/fewshot.md
"""

from mmengine.config import read_base

from xmodal.evaluation.plans import DomainShift
from xmodal.toys.shape_images import ShapeImages

with read_base():
    from .._base_.fewshot_tiny_clip import *

_shapes = dict(type=ShapeImages, colors=("red", "blue"))
_plain = dict(**_shapes, style="plain", split="train", per_class=32)
_test = dict(split="test", per_class=40)
_words = dict(templates=("a photo of a {}.",))
sources = [
    dict(
        name="plain",
        train=dict(**_plain, augment=True, scale=(0.6, 1.0)),
        plain=_plain,
        val=dict(**_shapes, style="plain", split="val", per_class=30),
        test=dict(**_shapes, **_test, style="plain"),
        **_words,
    ),
    *(
        dict(name=style, train=_plain, test=dict(**_shapes, **_test, style=style), **_words)
        for style in ("gray", "noisy", "negative")
    ),
]
protocol = dict(type=DomainShift)
shots = (16,)
title = "tiny CLIP trained on plain shapes, other styles tested"
