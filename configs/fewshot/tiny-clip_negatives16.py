"""Zero-shot, linear probe, CoOp, Tip-Adapter(-F) over 1 to 16 shots: shipped tiny CLIP, photographic negatives of shapes.

Command: python tools/fewshot.py configs/fewshot/tiny-clip_negatives16.py --shots 1 2 4 8 16 --seeds 1 2 3 --workers 2
Protocol: CoOp's (K shots, min(K, 4) validation shots, last step). 16 classes, drawn here; nothing is downloaded.
The tiny CLIP was pretrained on such pictures, not on their negatives: shapes keep their names, colors do not, so that
zero-shot is half right. Figures show that the code works, and nothing about natural images.
The task, the rates and the search ranges were chosen on the validation pictures, with other seeds (docs/fewshot.md):
add --on val --shots 1 4 16 --seeds 11 12 to see those figures. 50 epochs are enough here; the papers train up to 200.
Measured here: see docs/fewshot.md
"""

from xmodal.encoders.tiny import tiny_clip
from xmodal.heads.coop import CoOpHead
from xmodal.toys.shape_images import ShapeImages
from xmodal.evaluation.plans import Coop11
from xmodal.evaluation.runs import CacheRun, LinearProbeRun, PromptRun, ZeroShotRun

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
_coop = dict(type=PromptRun, epochs=50)
_cache = dict(type=CacheRun, scale=(20.0, 20.0), alpha=2.0, logit_scale=15.0)  # the tiny CLIP's scale is 15, not 100
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "linear probe": dict(type=LinearProbeRun),
    "CoOp (4 words)": dict(**_coop, head=dict(type=CoOpHead, init_words="a photo of a"), lr=0.05),
    "CoOp (M=4, class-specific)": dict(**_coop, head=dict(type=CoOpHead, n_ctx=4, class_specific=True), lr=0.1),
    "Tip-Adapter": dict(**_cache),
    "Tip-Adapter-F": dict(**_cache, finetune=True, lr=0.01),
}
shots = (1, 2, 4, 8, 16)
title = "tiny CLIP on negatives of drawn shapes, 16 classes"
