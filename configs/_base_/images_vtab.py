"""VTAB-1k on disk in the layout of NOAH's release: a folder per task with train800val200.txt, test.txt and images.

Task: cifar, until `tools/vtab.py --tasks` or --cfg-options say otherwise. The final run trains on all 1000 images and
is validated on the test split every 10 epochs, as published; tools/vtab.py --search trains on 800 and chooses on 200.
224 x 224, bicubic, no augmentation.
"""

from xmodal.data.images import ImageDataset
from xmodal.data.transforms import Resize

_size = [dict(type=Resize, size=[224, 224])]
_task = dict(type=ImageDataset, root="data/vtab-1k/cifar", format="list", transforms=_size)
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    drop_last=True,
    persistent_workers=True,
    dataset=dict(**_task, annotation="data/vtab-1k/cifar/train800val200.txt"),
)
val_dataloader = dict(
    batch_size=256, num_workers=4, dataset=dict(**_task, annotation="data/vtab-1k/cifar/test.txt", test_mode=True)
)
test_dataloader = dict(
    batch_size=256, num_workers=4, dataset=dict(**_task, annotation="data/vtab-1k/cifar/test.txt", test_mode=True)
)
