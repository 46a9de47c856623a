"""Few-shot methods of 2023 to 2025 over 1 to 16 shots: shipped tiny CLIP, photographic negatives of shapes.

CLIP-LoRA, two-stage adaptation, MaPLe, PromptSRC (and IVLP) train inside the towers; TaskRes, LP++ and ProLIP on features.
Command: python tools/fewshot.py configs/fewshot/tiny-clip_negatives16-towers.py --shots 1 2 4 8 16 --seeds 1 2 3 --workers 2
Protocol: CoOp's (K shots, min(K, 4) validation shots). LP++ selects its epoch on them, the others report the last step.
Rates and steps are ours, for a tower of 48 pixels whose logit scale is 15: the papers' are in the configs of ViT-B/16.
Measured here: see docs/fewshot.md
"""

from xmodal.clip_tuning.clip_lora import CLIPLoRA
from xmodal.clip_tuning.maple import MaPLe
from xmodal.clip_tuning.promptsrc import PromptSRC
from xmodal.clip_tuning.two_stage import TwoStage
from xmodal.encoders.tiny import tiny_clip
from xmodal.evaluation.feature_runs import LPPlusPlusRun, ProLIPRun, TaskResRun
from xmodal.evaluation.plans import Coop11
from xmodal.evaluation.runs import ZeroShotRun
from xmodal.evaluation.tower_runs import EpochRun, StepRun
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
_deep = dict(depth_text=2, depth_visual=3)
_free = dict(text_weight=0.0, image_weight=0.0, logit_weight=0.0)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
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
