"""Contrastive pretraining on your own images: tar shards of captions and folders of labeled images, ImageNet as the judge.

data/captions/shard-*.tar    webdataset layout (000.jpg, 000.txt)
data/imagenet/{train,val}    a folder a class; class names from data/imagenet/classes.txt would go into `class_names`
"""

from mmengine.config import read_base
from torch.optim import AdamW

from xmodal.data.captions import LabeledFolder, MixedPairs, TarShards
from xmodal.encoders.tokenizer import ClipTokenizer
from xmodal.engine.schedule import CosineSchedule
from xmodal.pretraining import ContrastiveModel

with read_base():
    from .runtime import *

model = dict(
    type=ContrastiveModel, tokenizer=dict(type=ClipTokenizer), loss="unicl", classes="data/imagenet/classes.txt"
)
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    drop_last=True,
    dataset=dict(
        type=MixedPairs,
        datasets=[
            dict(type=TarShards, shards="data/captions/shard-*.tar"),
            dict(
                type=LabeledFolder,
                root="data/imagenet/train",
                templates=["a photo of a {}.", "a bad photo of a {}.", "a close-up photo of a {}.", "art of a {}."],
            ),
        ],
    ),
)
val_dataloader = dict(
    batch_size=256, num_workers=8, dataset=dict(type=LabeledFolder, root="data/imagenet/val", test=True)
)
test_dataloader = val_dataloader
# UniCL's recipe
optim_wrapper = dict(
    optimizer=dict(type=AdamW, lr=5e-4, weight_decay=0.1),
    paramwise_cfg=dict(no_decay=["norm", ".bias", "logit_scale"]),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=CosineSchedule, warmup_epochs=5)
train_cfg = dict(max_epochs=32)
val_cfg = dict()
test_cfg = dict()
