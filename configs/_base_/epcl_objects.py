"""The released EPCL classification recipe: 300 epochs, AdamW, cosine from 3e-4, prompts of each class as text features."""

from torch.optim import AdamW

from pointcloud.classification import EPCLClassifier
from pointcloud.metrics import CloudAccuracy
from pointcloud.model import CloudModel
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.engine.schedule import CosineSchedule

model = dict(
    type=CloudModel,
    encoder=dict(type=open_clip_encoder, name="ViT-B-32-quickgelu", pretrained="openai"),
    network=dict(type=EPCLClassifier, num_classes=40, num_groups=64, group_size=32),
)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=3e-4, weight_decay=0.04),
    paramwise_cfg=dict(no_decay=["norm", ".bias", "token"]),
    clip_grad=dict(max_norm=0.8),
)
# 1e-6 is the released floor
param_scheduler = dict(type=CosineSchedule, warmup_epochs=10, final=1e-6 / 3e-4)
train_cfg = dict(max_epochs=300, val_interval=10)
val_evaluator = dict(type=CloudAccuracy)  # vote with model.network.votes=10 model.network.vote_points=1024
test_evaluator = dict(type=CloudAccuracy)
