"""EPCL on CLIP ViT-B/32, Point-BERT's few-shot episodes of ModelNet40: 5 classes of 10 clouds, or a variant.

Paper row: none released; there is no code for these episodes in the release.
Recipe: EPCL's for classification, 150 epochs. One fold a run (0 to 9 with train_dataloader.dataset.fold=1
val_dataloader.dataset.fold=1); tools/fewshot_clouds.py CONFIG --work-dir W runs the ten and gives mean and deviation.
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_1024_modelnet-5way10shot.py
Variants: --cfg-options variant=5way20shot, variant=10way10shot, variant=10way20shot
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.datasets.objects import FewShotClouds
from pointcloud.transforms import FarthestPoints, RandomPoints, ScaleShift, UnitBall

with read_base():
    from .._base_.runtime import *
    from .._base_.epcl_objects import *

_episode = dict(type=FewShotClouds, root="data/modelnet_fewshot", fold=0, way=5, shot=10)
_train = [dict(type=UnitBall), dict(type=RandomPoints, num_points=1024), dict(type=ScaleShift)]
_test = [dict(type=UnitBall), dict(type=FarthestPoints, num_points=1024)]
train_dataloader = dict(batch_size=32, num_workers=4, dataset=dict(**_episode, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=32, num_workers=4, dataset=dict(**_episode, split="test", transforms=_test, test_mode=True)
)
model.network.update(num_classes=5)
train_cfg.update(max_epochs=150)


def _episodes(way, shot):
    loader = dict(dataset=dict(way=way, shot=shot))
    return dict(model=dict(network=dict(num_classes=way)), train_dataloader=loader, val_dataloader=loader)


variants = {
    "5way20shot": _episodes(5, 20),
    "10way10shot": _episodes(10, 10),
    "10way20shot": _episodes(10, 20),
}
