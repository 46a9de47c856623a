"""Few-shot FGVC on disk in the layout of NOAH's release: annotations/train_meta.list.num_shot_K.seed_S and images/.

Task: aircraft with 16 shots and the lists of seed 0, until `tools/vtab.py --tasks --shots --seeds` say otherwise.
Training: RandomResizedCrop, flips, RandAugment; test: 256 x 256, center crop of 224.
"""

from video.augment import RandAugment
from xmodal.data.images import ImageDataset
from xmodal.data.transforms import CenterCrop, HorizontalFlip, RandomResizedCrop, Resize

_task = dict(type=ImageDataset, root="data/few-shot/fgvc_aircraft/images", format="list")
_lists = "data/few-shot/fgvc_aircraft/annotations"
_train = [
    dict(type=RandomResizedCrop, size=224, antialias=True),
    dict(type=HorizontalFlip),
    dict(type=RandAugment, config="rand-m9-mstd0.5-inc1"),
]
_test = dict(**_task, annotation=f"{_lists}/test_meta.list", test_mode=True,
             transforms=[dict(type=Resize, size=[256, 256]), dict(type=CenterCrop, size=224)])  # fmt: skip
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    drop_last=True,
    persistent_workers=True,
    dataset=dict(**_task, annotation=f"{_lists}/train_meta.list.num_shot_16.seed_0", transforms=_train),
)
val_dataloader = dict(batch_size=256, num_workers=8, dataset=dict(**_test))
test_dataloader = dict(batch_size=256, num_workers=8, dataset=dict(**_test))
