"""The built-in set of 8 actions in time-reversed pairs: 8 frames, one per segment, of 64 px H.264 files, at 48 px.

Make it once: python tools/data/make_actions.py demo_out/actions8
"""

from video.datasets import VideoDataset
from video.sampling import UniformSampling
from video.transforms import RandomCrop, ShortSideJitter

_folder = "demo_out/actions8"
_clip = dict(
    type=VideoDataset, classes=f"{_folder}/classes.txt", num_frames=8, sampling=dict(type=UniformSampling), size=48
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        **_clip,
        annotation=f"{_folder}/train.txt",
        # shifted by up to 4 pixels; no flip, because left is not right
        transforms=[dict(type=ShortSideJitter, low=48, high=48), dict(type=RandomCrop, size=48, padding=4)],
    ),
)
val_dataloader = dict(
    batch_size=16, num_workers=1, dataset=dict(**_clip, annotation=f"{_folder}/val.txt", test_mode=True)
)
test_dataloader = dict(
    batch_size=16, num_workers=1, dataset=dict(**_clip, annotation=f"{_folder}/test.txt", test_mode=True)
)
