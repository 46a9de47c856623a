"""MVLPT's first stage: unified prompts trained on several data sets at once, their classes one behind the other.

The paper's sources are all eleven data sets; name them below. The second stage is mvlpt_vit-b16-clip_target.py.
Data: as in vit-b16-clip_caltech101.py; python tools/data/check_fewshot.py data
Command: python tools/fewshot.py configs/fewshot/mvlpt_vit-b16-clip_multitask.py --shots 16 --seeds 1 2 3 --device cuda
Recipe: MVLPT's vit_b16.yaml (4 text and 4 visual vectors, SGD 0.002, 200 epochs, batch 32, prompts in the middle).
Differs: prompts attend to each other in the unified network, as the paper says (`official=True` for the release's).
Measured here: nothing; neither the data nor the weights can be had where this was written.
"""

from xmodal.encoders.openai_weights import openai_clip
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.evaluation.coop_data import read_coop
from xmodal.evaluation.image_runs import ImageRun
from xmodal.evaluation.images import ListedImages
from xmodal.evaluation.plans import MultiTask

clip = dict(type=openai_clip, path="data/clip/ViT-B-16.pt")
sources = []
for _name in ("caltech101", "oxford_pets", "oxford_flowers", "dtd", "eurosat"):
    _images = dict(type=ListedImages, splits=dict(type=read_coop, root="data", name=_name))
    sources.append(
        dict(
            name=_name,
            train=dict(**_images, split="train", augment=True),
            plain=dict(**_images, split="train"),
            val=dict(**_images, split="val"),
            test=dict(**_images, split="test"),
        )
    )
protocol = dict(type=MultiTask)
_head = dict(type=MVLPTHead, n_ctx=4, n_visual=4, chunk=100)
methods = {
    "MVLPT": dict(type=ImageRun, head=_head, epochs=200),
    "MVLPT, own task's classes": dict(type=ImageRun, head=_head, epochs=200, mask_tasks=True),
}
