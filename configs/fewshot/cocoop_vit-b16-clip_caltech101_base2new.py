"""CoCoOp against CoOp from base to new classes on Caltech101 with CLIP ViT-B/16, 16 shots.

Data and weights: as in vit-b16-clip_caltech101.py.
Command: python tools/fewshot.py configs/fewshot/cocoop_vit-b16-clip_caltech101_base2new.py --shots 16 --seeds 1 2 3
Recipe: CoCoOp's vit_b16_c4_ep10_batch1_ctxv1: 4 words, 10 epochs, batches of one image.
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.plans import BaseToNew
from xmodal.evaluation.runs import PromptRun, ZeroShotRun

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [
    dict(type=coop_source, name="caltech101"),
]
protocol = dict(type=BaseToNew)
_words = dict(init_words="a photo of a")
methods = {
    "zero-shot CLIP": dict(type=ZeroShotRun),
    "CoOp": dict(type=PromptRun, head=dict(type=CoOpHead, **_words), epochs=200),
    "CoCoOp": dict(type=PromptRun, head=dict(type=CoCoOpHead, chunk=100, **_words), epochs=10, batch_size=1),
}
