"""Something-Something v2 on disk: the official JSON files beside the folder of webm files."""

from video.datasets import VideoDataset

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    dataset=dict(
        type=VideoDataset,
        annotation="data/ssv2/something-something-v2-train.json",
        root="data/ssv2/20bn-something-something-v2",
        classes="data/ssv2/something-something-v2-labels.json",
        format="ssv2",
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=8,
    dataset=dict(
        type=VideoDataset,
        annotation="data/ssv2/something-something-v2-validation.json",
        root="data/ssv2/20bn-something-something-v2",
        classes="data/ssv2/something-something-v2-labels.json",
        format="ssv2",
        test_mode=True,
    ),
)
