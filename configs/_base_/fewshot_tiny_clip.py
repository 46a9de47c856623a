"""All few-shot methods at rates for the shipped tiny CLIP, whose logit scale is 15: ours, for 16 classes of drawn shapes."""

from xmodal.clip_tuning.clip_lora import CLIPLoRA
from xmodal.clip_tuning.maple import MaPLe
from xmodal.clip_tuning.promptsrc import PromptSRC
from xmodal.clip_tuning.two_stage import TwoStage
from xmodal.encoders.tiny import tiny_clip
from xmodal.evaluation.feature_runs import LPPlusPlusRun, ProLIPRun, TaskResRun
from xmodal.evaluation.runs import CacheRun, LinearProbeRun, PromptRun, ZeroShotRun
from xmodal.evaluation.tower_runs import EpochRun, StepRun
from xmodal.heads.coop import CoOpHead

encoder = dict(type=tiny_clip)
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
