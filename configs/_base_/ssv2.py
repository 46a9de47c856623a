"""Something-Something v2 on disk: the official JSON files beside the folder of webm files."""

from video.datasets import VideoDataset

_lists = "data/ssv2/something-something-v2"
_set = dict(
    type=VideoDataset, root="data/ssv2/20bn-something-something-v2", classes=f"{_lists}-labels.json", format="ssv2"
)
train_dataloader = dict(batch_size=64, num_workers=8, dataset=dict(**_set, annotation=f"{_lists}-train.json"))
val_dataloader = dict(
    batch_size=16, num_workers=8, dataset=dict(**_set, annotation=f"{_lists}-validation.json", test_mode=True)
)
