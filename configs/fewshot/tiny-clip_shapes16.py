"""Zero-shot, CoOp, Tip-Adapter(-F) and a linear probe: shipped tiny CLIP, 16 classes of drawn shapes, CoOp's protocol.

Command: python tools/fewshot.py configs/fewshot/tiny-clip_shapes16.py --shots 1 2 4 8 16 --seeds 1 2 3
The tiny CLIP was pretrained on such pictures: figures show that the code works, and nothing about natural images.
Rates and search ranges are ours, chosen on validation pictures (the tiny CLIP's logit scale is 15, not 100).
"""

from xmodal.encoders.tiny import tiny_clip
from xmodal.heads.coop import CoOpHead
from xmodal.protocols.images import ShapeImages
from xmodal.protocols.plans import Coop11
from xmodal.protocols.runs import CacheRun, LinearProbeRun, PromptRun, ZeroShotRun

_train = dict(type=ShapeImages, split="train", per_class=32)
clip = dict(type=tiny_clip)
sources = [
    dict(
        name="shapes16",
        train=dict(**_train, augment=True, scale=(0.6, 1.0)),
        plain=_train,
        val=dict(type=ShapeImages, split="val", per_class=16),
        test=dict(type=ShapeImages, split="test", per_class=64),
        templates=("a photo of a {}.",),
    )
]
protocol = dict(type=Coop11)
_cache = dict(type=CacheRun, scale=(20.0, 20.0), alpha=2.0, logit_scale=15.0)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "linear probe": dict(type=LinearProbeRun),
    "CoOp (M=4)": dict(type=PromptRun, head=dict(type=CoOpHead, n_ctx=4), lr=0.05),
    "Tip-Adapter": _cache,
    "Tip-Adapter-F": dict(**_cache, finetune=True),
}
shots = (1, 2, 4, 8, 16)
title = "tiny CLIP, 16 classes of drawn shapes"
