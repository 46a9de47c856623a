"""MVLPT's second stage: the mean of three multi-task prompts, trained on with a few shots of a target data set.

Run mvlpt_vit-b16-clip_multitask.py with seeds 1, 2 and 3 first; its three results are averaged here.
Data: data/ucf101; python tools/data/check_fewshot.py data ucf101
Command: python tools/fewshot.py configs/fewshot/mvlpt_vit-b16-clip_target.py --shots 1 4 16 --seeds 1 2 3 --device cuda
Recipe: MVLPT's vit_b16.yaml.
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.image_runs import ImageRun
from xmodal.evaluation.plans import Coop11

_first = "work_dirs/fewshot/mvlpt_vit-b16-clip_multitask/MVLPT"
encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = [
    dict(type=coop_source, name="ucf101"),
]
protocol = dict(type=Coop11)
_head = dict(type=MVLPTHead, n_ctx=4, n_visual=4)
methods = {
    "from scratch": dict(type=ImageRun, head=_head, epochs=200),
    "from several tasks": dict(
        type=ImageRun, head=_head, epochs=200, start=[f"{_first}/shots16_seed{_seed}" for _seed in (1, 2, 3)]
    ),
}
