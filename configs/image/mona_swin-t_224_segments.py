"""Mona and a light FPN on a frozen Swin-T: which drawn shape covers each pixel.

Paper: Mona (arXiv 2408.08345) reports dense tasks on COCO, ADE20K and VOC; no row of it is aimed at. Pictures drawn here.
Command: python tools/train.py configs/image/mona_swin-t_224_segments.py
Measured here: nothing.
"""

from mmengine.config import read_base

from xmodal.adapters.mona import mona
from xmodal.encoders.convnet import convnet

with read_base():
    from .._base_.shape_segments import *

model.encoder = dict(
    type=convnet, name="swin_tiny_patch4_window7_224.ms_in1k", pretrained=True, img_size=224, pad_first=True
)
model.adapters = [dict(type=mona)]
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader["dataset"].update(size=224)
