"""Prompts in the image tower on Caltech101 with CLIP ViT-B/16: DPT with class-aware prompts, and MVLPT's unified prompts.

Data and weights: as in vit-b16-clip_caltech101.py.
Command: python tools/fewshot.py configs/fewshot/dpt-mvlpt_vit-b16-clip_caltech101.py --shots 16 --device cuda
Recipe: DPT's train_single.sh (16 text vectors at 0.002, 10 visual prompts at 0.01, warm-up 10); MVLPT's vit_b16.yaml.
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.dpt import DPTHead
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.image_runs import ImageRun
from xmodal.evaluation.plans import Coop11

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [
    dict(type=coop_source, name="caltech101"),
]
protocol = dict(type=Coop11)
_dpt = dict(type=DPTHead, n_ctx=16, n_visual=10, top_classes=10, alpha=0.3, warmup_epochs=30)
methods = {
    "DPT": dict(type=ImageRun, head=_dpt, lr=0.01, text_lr=0.002, warmup_epochs=10, epochs={1: 60, 2: 100}),
    "MVLPT (UPT)": dict(type=ImageRun, head=dict(type=MVLPTHead, n_ctx=4, n_visual=4), epochs=200),
}
