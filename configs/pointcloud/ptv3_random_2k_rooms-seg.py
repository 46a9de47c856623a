"""Point Transformer V3, small and with RANDOM weights, built-in rooms segmentation, voxels of 10 cm.

Paper row: none; it shows what the architecture learns here without its pretraining.
Recipe: data, losses and schedule of epcl_tiny-clip_2k_rooms-seg.py; not tuned.
Data: python tools/data/make_clouds.py demo_out/clouds
Command: python tools/train.py configs/pointcloud/ptv3_random_2k_rooms-seg.py
Variants: --cfg-options variant=decoder, variant=scratch
Measured here: mIoU on 40 test rooms: frozen random network with a linear probe 42.7 (44.8 / 41.7 / 41.6, model.encoder.seed as
    the run's seed 0, 1, 2); variant=scratch, everything trained, 92.2 (92.5 / 92.5 / 91.5).
"""

from mmengine.config import read_base

from pointcloud.point_transformer import PointProbe, point_transformer

with read_base():
    from .._base_.rooms_segmentation import *

model.encoder = dict(
    type=point_transformer,
    in_channels=6,
    stride=(2, 2, 2),
    enc_depths=(1, 1, 2, 1),
    enc_channels=(32, 64, 96, 128),
    enc_num_head=(2, 4, 6, 8),
    enc_patch_size=(64,) * 4,
)
model.network.update(type=PointProbe, voxel=0.1)
variants = dict(
    decoder=dict(
        model=dict(
            network=dict(
                decoder=dict(channels=(32, 64, 96), depths=(1, 1, 1), num_head=(2, 4, 6), patch_size=(64,) * 3)
            )
        )
    ),
    scratch=dict(model=dict(freeze_encoder=False)),
)
optim_wrapper.optimizer.update(lr=2e-3)
