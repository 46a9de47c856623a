"""The built-in set of 8 actions in time-reversed pairs: 8 frames, one per segment, of 64 px H.264 files, at 48 px.

Make it once: python tools/data/make_actions.py demo_out/actions8
`variant=actions12` takes 12 actions, approach and rotation among them, while the bystander drifts. Make it once:
python tools/data/make_actions.py demo_out/actions12 --set hard --moving --train 1200 --val 180 --test 300
`variant=rotary` takes a tiny CLIP with rotary positions. Make it once:
python tools/train.py configs/pretrain/tiny-clip_48_things.py --work-dir work_dirs/rotary --cfg-options variant=rotary
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
_files = lambda split: dict(  # noqa: E731
    dataset=dict(annotation=f"demo_out/actions12/{split}.txt", classes="demo_out/actions12/classes.txt")
)
_rotary = dict(positions=False, rotary=dict(kind="axial"))
variants = dict(
    rotary=dict(model=dict(encoder=dict(arch=_rotary, weights="work_dirs/rotary/towers.safetensors"))),
    actions12=dict(
        model=dict(head=dict(num_classes=12)),
        train_dataloader=_files("train"),
        val_dataloader=_files("val"),
        test_dataloader=_files("test"),
    ),
)
