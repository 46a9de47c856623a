"""EPCL on CLIP ViT-B/32, ModelNet40 few-shot, 5 classes of 10 clouds.

Paper row: none released; there is no code for these episodes in the release.
Recipe: EPCL's classification recipe, 150 epochs, on Point-BERT's episodes. One fold a run: 0 to 9 with
--cfg-options train_dataloader.dataset.fold=1 val_dataloader.dataset.fold=1; report mean and deviation over the ten.
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_1024_modelnet-5way10shot.py
Measured here: nothing; neither the episodes nor the CLIP weights can be had where this was written.
"""

from mmengine.config import read_base

from pointcloud.datasets.objects import FewShotClouds
from pointcloud.transforms import FarthestPoints, RandomPoints, ScaleShift, UnitBall

with read_base():
    from .._base_.runtime import *
    from .._base_.epcl_objects import *

_episode = dict(type=FewShotClouds, root="data/modelnet_fewshot", way=5, shot=10, fold=0)
_train = [dict(type=UnitBall), dict(type=RandomPoints, num_points=1024), dict(type=ScaleShift)]
_test = [dict(type=UnitBall), dict(type=FarthestPoints, num_points=1024)]
model.network.update(num_classes=5)
train_dataloader = dict(batch_size=32, num_workers=4, dataset=dict(**_episode, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=32, num_workers=4, dataset=dict(**_episode, split="test", transforms=_test, test_mode=True)
)
train_cfg.update(max_epochs=150)
