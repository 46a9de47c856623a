"""MVLPT's first stage: unified prompts trained on several data sets at once, their classes one behind the other.

The paper's sources are all eleven data sets; name them below. The second stage is mvlpt_vit-b16-clip_target.py.
Data: as in vit-b16-clip_caltech101.py; python tools/data/check_fewshot.py data
Command: python tools/fewshot.py configs/fewshot/mvlpt_vit-b16-clip_multitask.py --shots 16 --seeds 1 2 3 --device cuda
Recipe: MVLPT's vit_b16.yaml (4 text and 4 visual vectors, SGD 0.002, 200 epochs, batch 32, prompts in the middle).
Differs: prompts attend to each other in the unified network, as the paper says (`official=True` for the release's).
Measured here: nothing.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.evaluation.coop_data import coop_source
from xmodal.evaluation.image_runs import ImageRun
from xmodal.evaluation.plans import MultiTask

encoder = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
_names = ("caltech101", "oxford_pets", "oxford_flowers", "dtd", "eurosat")
sources = [dict(type=coop_source, name=_name) for _name in _names]
protocol = dict(type=MultiTask)
_head = dict(type=MVLPTHead, n_ctx=4, n_visual=4, chunk=100)
methods = {
    "MVLPT": dict(type=ImageRun, head=_head, epochs=200),
    "MVLPT, own task's classes": dict(type=ImageRun, head=_head, epochs=200, mask_tasks=True),
}
