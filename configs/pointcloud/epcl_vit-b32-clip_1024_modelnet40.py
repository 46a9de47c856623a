"""EPCL on CLIP ViT-B/32, ModelNet40, 1024 points.

Paper row: EPCL (arXiv 2212.04098), 92.9 overall accuracy (released code's README), quoted as published; that figure is
the best of 299 votes chosen on the test set. Validation here is the test set too, as in the release: report `last.pth`.
Recipe: the released recipe; the text loss needs `model.network.text` (class prompts through CLIP's text tower).
Command: python tools/train.py configs/pointcloud/epcl_vit-b32-clip_1024_modelnet40.py
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *
    from .._base_.epcl_objects import *
    from .._base_.modelnet40 import *
