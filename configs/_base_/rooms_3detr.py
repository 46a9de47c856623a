"""Built-in rooms with 3DETR's decoder: queries stand where tokens vote for centers, every query in a box answers for it."""

from mmengine.config import read_base

from pointcloud.detection import detection3d

with read_base():
    from .rooms_detection import *

model.network = dict(
    type=detection3d,
    num_classes=6,
    num_angle_bins=12,
    backbone=dict(num_groups=128, group_size=16, feat_dim=3, scale=0.3, width=32),
    decoder=dict(
        dim=128, num_heads=4, ffn_dim=256, depth=2, num_queries=20, mlp_dropout=0.0, dropout=0.0, log_size=True
    ),
    criterion=dict(weights=dict(giou=2.0, size=5.0), no_object_weight=0.2, inside=0.1),
    votes=True,
    query_points=dict(feat_dim=3, radius=1.2, num_points=96, width=32),
)
