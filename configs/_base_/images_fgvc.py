"""FGVC on disk in the layout of VPT's release: train.json, val.json and test.json ({image: class}) beside the images.

Task: cub, until `tools/vtab.py --tasks` or --cfg-options say otherwise. Short side 256, crop of 224, flips.
"""

from xmodal.data.images import ImageDataset
from xmodal.data.transforms import CenterCrop, HorizontalFlip, RandomCrop, Resize

_task = dict(type=ImageDataset, root="data/fgvc/CUB_200_2011/images", format="json")
_short = dict(type=Resize, size=256, interpolation="bilinear")
_train = [_short, dict(type=RandomCrop, size=224), dict(type=HorizontalFlip)]
_test = dict(**_task, annotation="data/fgvc/CUB_200_2011/test.json", test_mode=True,
             transforms=[_short, dict(type=CenterCrop, size=224)])  # fmt: skip
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    drop_last=True,
    persistent_workers=True,
    dataset=dict(**_task, annotation="data/fgvc/CUB_200_2011/train.json", transforms=_train),
)
val_dataloader = dict(batch_size=256, num_workers=8, dataset=dict(**_test))
test_dataloader = dict(batch_size=256, num_workers=8, dataset=dict(**_test))
