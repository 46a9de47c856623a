"""Florence-style (arXiv 2111.11432): UniCL's loss on a Swin with convolutional stem and downsampling.

Nothing of Florence was released: this is built after its text, at Swin-T's size, and claims none of its numbers.
Recipe: UniCL's. Data: see configs/_base_/pairs.py
Command: torchrun --nproc-per-node 16 tools/train.py configs/pretrain/florence-style_coswin-t_224_pairs.py --launcher pytorch
Measured here: nothing; it builds, and neither the data nor the machines to train it are here.
"""

from mmengine.config import read_base

from xmodal.encoders.tokenizer import ClipTokenizer
from xmodal.encoders.unicl import unicl
from xmodal.pretraining import ContrastiveModel

with read_base():
    from .._base_.pairs import *

model = dict(
    type=ContrastiveModel,
    clip=dict(type=unicl, stem="conv", merge="conv", drop_path=0.1, name="florence-style"),
    tokenizer=dict(type=ClipTokenizer),
    loss="unicl",
    classes="data/imagenet/classes.txt",
)
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=5e-4, weight_decay=0.1),
    paramwise_cfg=dict(no_decay=["norm", ".bias", "logit_scale"]),
    clip_grad=dict(max_norm=5.0),
)
