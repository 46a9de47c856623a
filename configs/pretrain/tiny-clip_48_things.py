"""The tiny CLIP that ships with the project: image-text-label pretraining on the drawn shapes, windows first.

Recipe: ours. Losses (CLIP 2103.00020, UniCL 2204.03610): image-text contrast in which equal captions are positives; labels
of shape and color on the class token; labels and geometry of the thing that a patch lies on. The first half of the steps
sees windows of 3 by 3 patches around one thing (as FLIP, 2212.00794, saves tokens). Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/tiny-clip_48_things.py        (`make pretrain-tiny`)
    with variant=rotary an image tower with rotary positions instead of a table, 4,320 steps
Measured here: 95.3 % zero-shot, 64 classes, seed 0 (shipped weights 97.9); 18.8 minutes beside other jobs.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from xmodal.toys.shape_captions import ShapeCaptions
from xmodal.toys.shape_pool import ShapeThings
from xmodal.encoders.tiny import tiny_clip
from xmodal.engine.schedule import CosineSchedule
from xmodal.toys.label_pretraining import ImageTextLabelModel, SaveTowersHook, WindowsFirstHook

with read_base():
    from .._base_.runtime import *

model = dict(type=ImageTextLabelModel, clip=dict(type=tiny_clip, weights="random"))
train_dataloader = dict(batch_size=48, num_workers=0, dataset=dict(type=ShapeThings, count=60000))
# the pictures of one thing among the first 1000 of another world, 64 classes
val_dataloader = dict(
    batch_size=425, num_workers=0, dataset=dict(type=ShapeCaptions, count=425, world=1_000_000, alone=True)
)
test_dataloader = val_dataloader
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=1.5e-3, weight_decay=0.05, betas=(0.9, 0.98)),
    paramwise_cfg=dict(no_decay=["norm", ".bias", "logit_scale"]),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=CosineSchedule, warmup_steps=100)
train_cfg = dict(max_steps=7560, val_interval=1890)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [dict(type=WindowsFirstHook, share=0.5185), dict(type=SaveTowersHook)]
variants = dict(
    rotary=dict(
        model=dict(clip=dict(arch=dict(positions=False, rotary=dict(kind="axial")))),
        train_cfg=dict(max_steps=4320, val_interval=1080),
    )
)
