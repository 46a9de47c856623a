"""All few-shot methods over 1 to 16 shots: shipped tiny CLIP, photographic negatives of shapes.

CLIP-LoRA, 2SFS, MaPLe, PromptSRC and IVLP train inside the towers (minutes), the others on features or prompts (seconds).
Command: python tools/fewshot.py configs/fewshot/tiny-clip_negatives16.py --shots 1 2 4 8 16 --seeds 1 2 3 --workers 2
Protocol: CoOp's (K shots, min(K, 4) validation shots). The last step is reported, except for the linear probe, Tip-Adapter and
LP++, which select on the validation shots. 16 classes, drawn here; nothing is downloaded.
The tiny CLIP was pretrained on such pictures, not on their negatives: shapes keep their names, colors do not, so that
zero-shot is half right. Figures show that the code works, and nothing about natural images.
The task, the rates and the search ranges were chosen on the validation pictures, with other seeds (docs/fewshot.md):
add --on val --shots 1 4 16 --seeds 11 12 to see those figures. 50 epochs are enough here; the papers train up to 200.
Rates and steps of the methods of 2023 to 2025 are ours too, not tuned: the papers' are in towers_vit-b16-clip_caltech101.py.
Measured here: see docs/fewshot.md
"""

from mmengine.config import read_base

from xmodal.evaluation.plans import Coop11
from xmodal.toys.shape_images import ShapeImages

with read_base():
    from .._base_.fewshot_tiny_clip import *

_shapes = dict(type=ShapeImages, colors=("red", "blue"), style="negative")
_train = dict(**_shapes, split="train", per_class=32)
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
title = "tiny CLIP on negatives of drawn shapes, 16 classes"
