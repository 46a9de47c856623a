"""Few-shot recognition on the built-in set of 8 actions: clips of 8 frames, class names as prompts, CoOp's protocol.

Make it once: python tools/data/make_actions.py demo_out/actions8
"""

from video.datasets import VideoDataset
from video.sampling import UniformSampling
from xmodal.encoders.tiny import tiny_clip
from xmodal.heads.coop import CoOpHead
from xmodal.evaluation.plans import Coop11
from xmodal.evaluation.runs import CacheRun, LinearProbeRun, PromptRun, ZeroShotRun

_folder = "demo_out/actions8"
_clip = dict(
    type=VideoDataset,
    classes=f"{_folder}/classes.txt",
    num_frames=8,
    sampling=dict(type=UniformSampling),
    size=48,
    test_mode=True,
)
encoder = dict(type=tiny_clip)
sources = [
    dict(
        name="actions8",
        train=dict(**_clip, annotation=f"{_folder}/train.txt"),
        val=dict(**_clip, annotation=f"{_folder}/val.txt"),
        test=dict(**_clip, annotation=f"{_folder}/test.txt"),
        templates=("a video of a shape {}", "a shape {}"),
    )
]
protocol = dict(type=Coop11)
_cache = dict(type=CacheRun, passes=1, scale=(7.0, 3.0), logit_scale=15.0)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "linear probe": dict(type=LinearProbeRun),
    "CoOp (M=4)": dict(type=PromptRun, head=dict(type=CoOpHead, n_ctx=4), lr=0.02),
    "CoOp (M=4, class-specific)": dict(type=PromptRun, head=dict(type=CoOpHead, n_ctx=4, class_specific=True), lr=0.1),
    "Tip-Adapter": dict(**_cache),
    "Tip-Adapter-F": dict(**_cache, finetune=True),
}
shots = (4,)
