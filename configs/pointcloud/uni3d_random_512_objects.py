"""Uni3D's network, small and with RANDOM weights, on the built-in objects: a linear probe, LoRA, or all of it trained.

Paper row: none; it shows what the architecture learns here without its pretraining.
Recipe: ours, that of epcl_tiny-clip_512_objects.py; not tuned.
Data: python tools/data/make_clouds.py demo_out/clouds
Command: python tools/train.py configs/pointcloud/uni3d_random_512_objects.py
Variants: --cfg-options variant=lora, variant=scratch
Measured here: the frozen random network with a linear probe 54.0 % of 300 test clouds, mean of seeds
    0, 1, 2 (56.3 / 51.7 / 54.0).
"""

from mmengine.config import read_base

from pointcloud.classification import FeatureClassifier
from pointcloud.uni3d import uni3d
from xmodal.adapters.lora import lora
from xmodal.heads.classification import ClassificationHead

with read_base():
    from .._base_.tiny_clip_clouds import *
    from .._base_.objects import *

model.encoder = dict(
    type=uni3d, size="tiny", arch=dict(depth=4), num_groups=40, group_size=16, token_dim=64, out_dim=192
)
model.network = dict(type=FeatureClassifier, head=dict(type=ClassificationHead, num_classes=10, norm="batch"))
variants = dict(
    lora=dict(model=dict(adapters=[dict(type=lora, rank=8)])),
    scratch=dict(model=dict(freeze_encoder=False)),
)
param_scheduler.update(warmup_steps=40)
train_cfg = dict(max_epochs=10, val_interval=10)
