"""Point-BERT's few-shot episodes of ModelNet40 with EPCL's classification recipe, 150 epochs; a leaf sets way and shot.

One fold a run: 0 to 9 with --cfg-options train_dataloader.dataset.fold=1 val_dataloader.dataset.fold=1; report mean and
deviation over the ten (`tools/fewshot_clouds.py` does).
"""

from mmengine.config import read_base

from pointcloud.datasets.objects import FewShotClouds
from pointcloud.transforms import FarthestPoints, RandomPoints, ScaleShift, UnitBall

with read_base():
    from .runtime import *
    from .epcl_objects import *

_episode = dict(type=FewShotClouds, root="data/modelnet_fewshot", fold=0)
_train = [dict(type=UnitBall), dict(type=RandomPoints, num_points=1024), dict(type=ScaleShift)]
_test = [dict(type=UnitBall), dict(type=FarthestPoints, num_points=1024)]
train_dataloader = dict(batch_size=32, num_workers=4, dataset=dict(**_episode, split="train", transforms=_train))
val_dataloader = dict(
    batch_size=32, num_workers=4, dataset=dict(**_episode, split="test", transforms=_test, test_mode=True)
)
train_cfg.update(max_epochs=150)
