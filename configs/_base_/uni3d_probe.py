"""A linear classifier on the feature of frozen Uni3D-B; `variant=lora` and `variant=adaptformer` adapt the tower too."""

from mmengine.config import read_base
from torch.optim import AdamW

from pointcloud.classification import FeatureClassifier
from pointcloud.metrics import CloudAccuracy
from pointcloud.model import CloudModel
from pointcloud.uni3d import uni3d
from xmodal.adapters.bottleneck import adaptformer
from xmodal.adapters.lora import lora
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead

with read_base():
    from .runtime import *

model = dict(
    type=CloudModel,
    encoder=dict(type=uni3d, size="base", weights="data/uni3d/uni3d-b.pt"),
    network=dict(type=FeatureClassifier, head=dict(type=ClassificationHead, num_classes=40, norm="batch")),
)
variants = dict(
    lora=dict(model=dict(adapters=[dict(type=lora, rank=8)])),
    adaptformer=dict(model=dict(adapters=[dict(type=adaptformer)])),
)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.01),
    paramwise_cfg=dict(no_decay=["norm", ".bias"]),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=1)
train_cfg = dict(max_epochs=20, val_interval=5)
val_evaluator = dict(type=CloudAccuracy)
test_evaluator = dict(type=CloudAccuracy)
