"""Zero-shot and few-shot recognition of the built-in 8 actions on the features of a trained ST-Adapter.

Make the clips once: python tools/data/make_actions.py demo_out/actions8
Train the adapter: python tools/train.py configs/video/st-adapter_tiny-clip_8u_actions8.py --work-dir work_dirs/st-adapter
Command: python tools/fewshot.py configs/fewshot/st-adapter_tiny-clip_actions8.py --shots 4 --seeds 1 2 3
The adapter was trained with the labels of all 800 training clips of these very classes; the few shots only build a new
classifier on its features. The figures say that heads work on adapted features, and are no few-shot result of ST-Adapter.
Measured here: see docs/fewshot.md
"""

from mmengine.config import read_base

from video.st_adapter import st_adapter

with read_base():
    from .._base_.fewshot_actions8 import *

bench = dict(
    views=1,
    adapters=[dict(type=st_adapter, bottleneck=64, kernel_size=(3, 1, 1), sites=["pre_attn", "pre_mlp"])],
    weights="work_dirs/st-adapter/last.pth",
)
title = "tiny CLIP with ST-Adapter on 8 built-in actions"
