"""A small model with a frozen and a trained part, and a data set whose samples depend on (seed, epoch, index)."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from xmodal.registry import DATASETS, MODELS


class Still(nn.Module):
    """A frozen part that mmengine would re-initialize."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc = nn.Linear(4, dim)
        self.bn = nn.BatchNorm1d(dim)
        self.requires_grad_(False)

    def init_weights(self):
        nn.init.zeros_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.fc(x))

    def train(self, mode: bool = True):
        return super().train(False)


@MODELS.register_module(name="toy", force=True)
class ToyModel(BaseModel):
    """Frozen linear map, then BatchNorm, dropout and a linear head that train."""

    def __init__(self, dim: int = 6, num_classes: int = 3, dropout: float = 0.3, weights: int = 7, norm: bool = True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(weights)
            self.encoder = Still(dim)
        self.norm = nn.BatchNorm1d(dim) if norm else nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_classes)

    def frozen_fingerprint(self):
        return {"encoder": "toy", "sha256": hashlib.sha256(self.encoder.fc.weight.numpy().tobytes()).hexdigest()}

    def forward(self, x=None, label=None, sample_id=None, mode="tensor", skipped=None, replaced=None):
        logits = self.head(self.drop(self.norm(self.encoder(x))))
        if mode == "loss":
            top1 = (logits.argmax(1) == label).float().mean() * 100
            return {"loss": nn.functional.cross_entropy(logits, label), "top1": top1}
        if mode == "predict":
            labels = label.tolist() if label is not None else [None] * len(logits)
            rows = zip(sample_id, logits.softmax(1).cpu(), labels, strict=True)
            return [{"sample_id": n, "scores": s, "label": y} for n, s, y in rows]
        return logits


@DATASETS.register_module(name="toy_data", force=True)
class ToyData:
    """Noisy points in classes. `log`: a file that records every key asked; `broken`: indices that cannot be read."""

    def __init__(
        self, size: int = 24, num_classes: int = 3, seed: int = 0, log: str | None = None, broken=(), test=False
    ):
        self.size, self.seed, self.log, self.broken, self.test = size, seed, log, set(broken), test
        self.classes = [f"class {i}" for i in range(num_classes)]

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{epoch} {index}\n")
        if index in self.broken:
            if self.test:
                return {"skipped": f"s{index}", "reason": "broken"}
            sample = self[epoch, (index + 1) % self.size]
            return {**sample, "replaced": {"sample_id": f"s{index}", "reason": "broken"}}
        label = index % len(self.classes)
        noise = np.random.default_rng([self.seed, epoch, index]).normal(size=4).astype(np.float32)
        return {
            "x": torch.from_numpy(noise + 2 * np.eye(4, dtype=np.float32)[label]),
            "label": label,
            "sample_id": f"s{index}",
        }


@DATASETS.register_module(name="toy_files", force=True)
class ToyFiles:
    """A list of text files, each with a number."""

    def __init__(self, annotation: str, classes=None):
        self.paths = [line.split("\t")[0] for line in Path(annotation).read_text().splitlines()]
        self.classes = classes

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            value = float(Path(self.paths[index]).read_text())
        except ValueError as error:
            return {"skipped": self.paths[index], "reason": str(error)}
        return {"x": torch.full((4,), value), "label": 0, "sample_id": self.paths[index]}


CONFIG = """
from torch.optim import AdamW
from xmodal.engine.schedule import CosineSchedule
from tests.engine.toy import ToyData, ToyModel

_size = 24
model = dict(type=ToyModel, dropout=0.3)
train_dataloader = dict(batch_size=5, num_workers=0, dataset=dict(type=ToyData, size=_size))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(type=ToyData, size=13, seed=99, test=True))
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2, weight_decay=1e-2), paramwise_cfg=dict(no_decay=[".bias"]))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=1)
train_cfg = dict(max_epochs=4, val_interval=2)
default_hooks = dict(progress=dict(type="progress", interval=1))
"""


def write_config(folder: Path, text: str = CONFIG, name: str = "toy.py") -> str:
    path = Path(folder) / name
    path.write_text(text)
    return str(path)
