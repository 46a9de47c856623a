"""Linear probe on frozen Uni3D-B, Point-BERT's few-shot episodes of ModelNet40: 5 classes of 10 clouds, gray.

Paper row: none released with this recipe.
Recipe: ours. One fold a run; tools/fewshot_clouds.py CONFIG --work-dir W runs the ten and gives mean and deviation.
Command: python tools/train.py configs/pointcloud/probe_uni3d-b_1024_modelnet-5way10shot.py
Variants: --cfg-options variant=lora, variant=adaptformer; 10 classes or 20 clouds with model.network.head.num_classes=10 and
way=10, shot=20 of the three data sets
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.datasets.objects import FewShotClouds
from pointcloud.transforms import FarthestPoints, RandomPoints, ScaleShift, UnitBall

with read_base():
    from .._base_.uni3d_probe import *

_episode = dict(type=FewShotClouds, root="data/modelnet_fewshot", fold=0, way=5, shot=10)
_train = [dict(type=UnitBall), dict(type=RandomPoints, num_points=1024), dict(type=ScaleShift)]
_test = [dict(type=UnitBall), dict(type=FarthestPoints, num_points=1024)]
train_dataloader = dict(batch_size=25, num_workers=4, dataset=dict(**_episode, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=25, num_workers=4, dataset=dict(**_episode, split="test", transforms=_test, test_mode=True)
)
model.network.head.num_classes = 5
train_cfg.update(max_epochs=60, val_interval=60)
