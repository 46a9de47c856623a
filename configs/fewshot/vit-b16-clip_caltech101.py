"""CoOp's protocol on Caltech101 with CLIP ViT-B/16: zero-shot, linear probe, CoOp with 16 vectors and with 4 words.

Data: data/caltech-101/ with split_zhou_Caltech101.json; python tools/data/check_fewshot.py data caltech101
Weights: OpenAI's ViT-B-16.pt at the path below. Command: python tools/fewshot.py configs/fewshot/vit-b16-clip_caltech101.py
Recipe: CoOp's train script (rates, epochs by shots, last step). Reference with RN50, 16 shots: 92.00 +- 0.15 (its log).
Differs: training views are drawn once and shared by epochs in turn (bench.views), so that features are computed once.
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.coop import CoOpHead
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.plans import Coop11
from xmodal.evaluation.runs import LinearProbeRun, PromptRun, ZeroShotRun

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [
    dict(type=coop_source, name="caltech101"),
]
bench = dict(views=20)
protocol = dict(type=Coop11)
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "linear probe": dict(type=LinearProbeRun),
    "CoOp (M=16)": dict(type=PromptRun, head=dict(type=CoOpHead, n_ctx=16)),
    "CoOp (M=4, words)": dict(type=PromptRun, head=dict(type=CoOpHead, init_words="a photo of a")),
}
