"""Data of an image benchmark: VTAB-1k, or FGVC or few-shot FGVC with `--benchmark` (`--cfg-options benchmark=fgvc`).

vtab     NOAH's release: a folder per task with train800val200.txt, test.txt and images. The final run trains on all
         1000 images and is validated on the test split every 10 epochs, as published; tools/vtab.py --search trains on
         800 and chooses on 200. 224 x 224, bicubic, no augmentation.
fgvc     VPT's release: train.json, val.json and test.json ({image: class}) beside the images. Short side 256, crop of
         224, flips.
fewshot  NOAH's release: annotations/train_meta.list.num_shot_K.seed_S and images/. RandomResizedCrop, flips, RandAugment;
         test: 256 x 256, center crop of 224.
Tasks: cifar, cub, aircraft with 16 shots, until `tools/vtab.py --tasks --shots --seeds` or --cfg-options say otherwise.
"""

from video.augment import RandAugment
from xmodal.data.images import ImageDataset
from xmodal.data.transforms import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize

about = dict(benchmark="vtab")
_task = dict(
    type=ImageDataset, root="data/vtab-1k/cifar", format="list", transforms=[dict(type=Resize, size=[224, 224])]
)
_test = dict(**_task, annotation="data/vtab-1k/cifar/test.txt", test_mode=True)
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    drop_last=True,
    persistent_workers=True,
    dataset=dict(**_task, annotation="data/vtab-1k/cifar/train800val200.txt"),
)
val_dataloader = dict(batch_size=256, num_workers=4, dataset=dict(**_test))
test_dataloader = dict(batch_size=256, num_workers=4, dataset=dict(**_test))

_short = dict(type=Resize, size=256, interpolation="bilinear")
_birds = dict(root="data/fgvc/CUB_200_2011/images", format="json")
_birds_test = dict(**_birds, annotation="data/fgvc/CUB_200_2011/test.json",
                   transforms=[_short, dict(type=CenterCrop, size=224)])  # fmt: skip
_planes = dict(root="data/few-shot/fgvc_aircraft/images")
_lists = "data/few-shot/fgvc_aircraft/annotations"
_planes_test = dict(**_planes, annotation=f"{_lists}/test_meta.list",
                    transforms=[dict(type=Resize, size=[256, 256]), dict(type=CenterCrop, size=224)])  # fmt: skip
_augment = [
    dict(type=RandomResizedCrop, size=224, antialias=True),
    dict(type=HorizontalFlip),
    dict(type=RandAugment, config="rand-m9-mstd0.5-inc1"),
]
benchmarks = dict(  # what each changes of the config
    vtab=dict(),
    fgvc=dict(
        about=dict(benchmark="fgvc"),
        model=dict(head=dict(num_classes=200)),
        train_dataloader=dict(
            num_workers=8,
            dataset=dict(
                **_birds,
                annotation="data/fgvc/CUB_200_2011/train.json",
                transforms=[_short, dict(type=RandomCrop, size=224), dict(type=HorizontalFlip)],
            ),
        ),
        val_dataloader=dict(num_workers=8, dataset=_birds_test),
        test_dataloader=dict(num_workers=8, dataset=_birds_test),
    ),
    fewshot=dict(
        about=dict(benchmark="fewshot"),
        train_dataloader=dict(
            num_workers=8,
            dataset=dict(**_planes, annotation=f"{_lists}/train_meta.list.num_shot_16.seed_0", transforms=_augment),
        ),
        val_dataloader=dict(num_workers=8, dataset=_planes_test),
        test_dataloader=dict(num_workers=8, dataset=_planes_test),
    ),
)
