"""3DETR-m, trained from scratch, ScanNet v2 detection, 40,000 points: the baseline without a frozen encoder.

Paper row: 3DETR-m (arXiv 2109.08141), 65.0 mAP@.25, 47.0 mAP@.5 after 1080 epochs, quoted as published.
Recipe: the released recipe.
Command: python tools/train.py configs/pointcloud/detr3d-m_40k_scannet-det.py
Measured here: nothing.
"""

from mmengine.config import read_base

from pointcloud.detection import detr3d
from pointcloud.detr_encoder import no_encoder

with read_base():
    from .._base_.scannet_detection import *

model.encoder = dict(type=no_encoder)
model.network.type = detr3d
model.network.backbone = dict(masked=True)
