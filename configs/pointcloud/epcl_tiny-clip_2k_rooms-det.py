"""3DETR's decoder on EPCL tokens of the shipped tiny CLIP, built-in rooms, oriented boxes.

Recipe: ours, chosen on the validation rooms. Queries stand where tokens vote for centers and begin with the raw points
around them; every query inside a true box answers for it. Neither paper has any of this.
Data: 400 furnished rooms to train, 40 to validate, 40 to test, in SUN RGB-D's layout; python tools/data/make_clouds.py demo_out/clouds
Command: python tools/train.py configs/pointcloud/epcl_tiny-clip_2k_rooms-det.py
Measured here: mAP@.25 90.1, mAP@.5 55.5 on 40 test rooms, seed 0 (93.2, 70.6 on validation rooms after 10 epochs);
docs/pointclouds.md has the whole table of the demo.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.rooms_3detr import *
