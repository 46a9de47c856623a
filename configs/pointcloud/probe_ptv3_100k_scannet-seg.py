"""A linear classifier on the decoder of frozen Point Transformer V3, ScanNet v2 segmentation, 100,000 points.

Paper row: none for a probe; PTv3 trained on ScanNet reaches 77.6 mIoU (its README), quoted as published.
Recipe: that of probe_sonata_100k_scannet-seg.py. Points have colors alone, normals are zeros; not tried on a released file.
Command: python tools/train.py configs/pointcloud/probe_ptv3_100k_scannet-seg.py --cfg-options model.encoder.weights=ptv3.pth
Variants: --cfg-options variant=lora
Measured here: nothing.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.scannet_probe import *

model.encoder.update(
    in_channels=6,
    first_version=True,
    decoder=True,
    enc_depths=(2, 2, 2, 6, 2),
    enc_channels=(32, 64, 128, 256, 512),
    enc_num_head=(2, 4, 8, 16, 32),
    dec_depths=(2, 2, 2, 2),
    dec_channels=(64, 64, 128, 256),
    dec_num_head=(4, 4, 8, 16),
)
model.network.use_coord = False
variants = dict(lora=variants["lora"])
