"""Photographic negatives of drawn shapes, 16 classes, on the shipped tiny CLIP, under CoOp's protocol with 1 to 16 shots."""

from xmodal.encoders.tiny import tiny_clip
from xmodal.evaluation.plans import Coop11
from xmodal.toys.shape_images import ShapeImages

_shapes = dict(type=ShapeImages, colors=("red", "blue"), style="negative")
_train = dict(**_shapes, split="train", per_class=32)
encoder = dict(type=tiny_clip)
sources = [
    dict(
        name="negatives16",
        train=dict(**_train, augment=True, scale=(0.6, 1.0)),
        plain=_train,
        val=dict(**_shapes, split="val", per_class=30),
        test=dict(**_shapes, split="test", per_class=40),
        templates=("a photo of a {}.",),
    )
]
protocol = dict(type=Coop11)
shots = (1, 2, 4, 8, 16)
