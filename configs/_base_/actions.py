"""Data of the built-in actions: 8 frames, one per segment, of 64 px H.264 files, at the 48 px of the shipped tiny CLIP.

`configs/_base_/actions8.py` and `actions12.py` say which set.
"""

from video.datasets import VideoDataset
from video.sampling import UniformSampling
from video.transforms import RandomCrop, ShortSideJitter

_clip = dict(type=VideoDataset, num_frames=8, sampling=dict(type=UniformSampling), size=48)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        **_clip,
        # shifted by up to 4 pixels; no flip, because left is not right
        transforms=[dict(type=ShortSideJitter, low=48, high=48), dict(type=RandomCrop, size=48, padding=4)],
    ),
)
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(**_clip, test_mode=True))
test_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(**_clip, test_mode=True))
