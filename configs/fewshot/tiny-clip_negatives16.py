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

from xmodal.clip_tuning.clip_lora import CLIPLoRA
from xmodal.clip_tuning.maple import MaPLe
from xmodal.clip_tuning.promptsrc import PromptSRC
from xmodal.clip_tuning.two_stage import TwoStage
from xmodal.encoders.tiny import tiny_clip
from xmodal.evaluation.feature_runs import LPPlusPlusRun, ProLIPRun, TaskResRun
from xmodal.evaluation.plans import Coop11
from xmodal.evaluation.runs import CacheRun, LinearProbeRun, PromptRun, ZeroShotRun
from xmodal.evaluation.tower_runs import EpochRun, StepRun
from xmodal.heads.coop import CoOpHead
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
_coop = dict(type=PromptRun, epochs=50)
_cache = dict(type=CacheRun, scale=(20.0, 20.0), alpha=2.0, logit_scale=15.0)  # the tiny CLIP's scale is 15, not 100
_deep = dict(depth_text=2, depth_visual=3)
_free = dict(text_weight=0.0, image_weight=0.0, logit_weight=0.0)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "linear probe": dict(type=LinearProbeRun),
    "CoOp (4 words)": dict(**_coop, head=dict(type=CoOpHead, init_words="a photo of a"), lr=0.05),
    "CoOp (M=4, class-specific)": dict(**_coop, head=dict(type=CoOpHead, n_ctx=4, class_specific=True), lr=0.1),
    "Tip-Adapter": dict(**_cache),
    "Tip-Adapter-F": dict(**_cache, finetune=True, lr=0.01),
    "TaskRes": dict(type=TaskResRun, lr=0.01),
    "LP++": dict(type=LPPlusPlusRun),
    "ProLIP": dict(type=ProLIPRun, lr=1e-3, logit_scale=15.0),
    "CLIP-LoRA": dict(type=StepRun, model=dict(type=CLIPLoRA, logit_scale=15.0), lr=2e-3, steps=20),
    "2SFS": dict(type=StepRun, model=dict(type=TwoStage), lr=2e-3, steps=20),
    "MaPLe": dict(type=EpochRun, model=dict(type=MaPLe, depth=2), lr=0.02, epochs=10),
    "IVLP": dict(type=EpochRun, model=dict(type=PromptSRC, **_deep, **_free), lr=0.02, epochs=10),
    "PromptSRC": dict(
        type=EpochRun, model=dict(type=PromptSRC, **_deep, templates=("a photo of a {}.",)), lr=0.02, epochs=10,
        average=(8, 2),
    ),
}  # fmt: skip
shots = (1, 2, 4, 8, 16)
title = "tiny CLIP on negatives of drawn shapes, 16 classes"
