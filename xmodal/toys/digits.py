"""Real scans that come with scikit-learn: 1,797 handwritten digits of 8x8 pixels, split for few shots."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from xmodal.registry import DATASETS

NUM_TEST, NUM_VAL = 500, 300


@DATASETS.register_module(name="digits")
class Digits(Dataset):
    """Handwritten digits, enlarged bilinearly.

    Test (500) and validation images (300) are always the same; the shots are drawn from the other 997.

    Args:
        split: `train` (the shots), `val`, `trainval` (the shots and the validation images) or `test`.
        size: side in pixels.
        shots: training images a class.
        draw: number of the draw of the shots.
        test_mode: float pixels instead of rounded ones.

    Returns:
        Items `image` (3, size, size) of 0 to 255, uint8 in training and float32 in testing; `label`; `sample_id`.

    Raises:
        ValueError: another split, more shots than there are, or no scikit-learn.
    """

    def __init__(
        self, split: str = "train", size: int = 48, shots: int = 16, draw: int = 0, test_mode: bool = False
    ) -> None:
        if split not in ("train", "val", "trainval", "test"):
            raise ValueError(f"split={split!r}: digits have train, val, trainval and test")
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ValueError("the digits come with scikit-learn: pip install scikit-learn") from error
        data = load_digits()
        self.rows = rows_of(data.target, split, shots, draw)
        self.labels, self.test_mode = data.target[self.rows], test_mode
        gray = torch.tensor(data.images[self.rows] * (255 / 16), dtype=torch.float32)[:, None]
        images = F.interpolate(gray, size=(size, size), mode="bilinear", antialias=True)
        self.images = images if test_mode else images.round().to(torch.uint8)  # (N, 1, size, size)
        self.classes = [str(i) for i in range(10)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an index, or of an (epoch, index)."""
        index = key[1] if isinstance(key, tuple) else key
        image = self.images[index].expand(3, -1, -1).contiguous()
        return {"image": image, "label": int(self.labels[index]), "sample_id": f"digit-{self.rows[index]}"}


def rows_of(target: np.ndarray, split: str, shots: int, draw: int) -> np.ndarray:
    """Indices of a split."""
    parts = np.split(np.random.default_rng(0).permutation(len(target)), [NUM_TEST, NUM_TEST + NUM_VAL])
    if split == "test":
        return parts[0]
    order = np.random.default_rng([1, draw]).permutation(parts[2])
    most = min(int((target[order] == label).sum()) for label in range(10))
    if not 1 <= shots <= most:
        raise ValueError(f"shots={shots}: there are 1 to {most} training images a class")
    train = np.concatenate([order[target[order] == label][:shots] for label in range(10)])
    return {"train": train, "val": parts[1], "trainval": np.concatenate([train, parts[1]])}[split]
