"""3DETR-m, trained from scratch, SUN RGB-D detection, 20,000 points, oriented boxes.

Paper row: 3DETR-m (arXiv 2109.08141), 59.1 mAP@.25, 30.3 mAP@.5 after 1080 epochs, quoted as published.
Recipe: the released recipe.
Command: python tools/train.py configs/pointcloud/detr3d-m_20k_sunrgbd-det.py
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.detection import detr3d
from pointcloud.detr_encoder import no_encoder

with read_base():
    from .._base_.sunrgbd_detection import *

model.encoder = dict(type=no_encoder)
model.network.type = detr3d
model.network.backbone = dict(masked=True)
