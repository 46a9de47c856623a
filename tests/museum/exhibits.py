"""The models and inputs of the museum: small, and the same on every machine.

Weights of towers come from numpy's generator and inputs likewise, so that nothing here depends on torch's random
numbers. A change may rename what a config says; it may not make `files/` unreadable or give other outputs.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.optim import AdamW

from pointcloud.metrics import CloudAccuracy, DetectionMetric, SegmentationMetric
from pointcloud.model import CloudModel
from video.evl import EVLDecoder
from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.adapters.lora import lora
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import WordTokenizer
from xmodal.encoders.vit import VisionTransformer
from xmodal.engine import launch
from xmodal.engine.config import set_defaults
from xmodal.engine.ema import EMAHook
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.metrics import Accuracy
from xmodal.model import TransferModel
from xmodal.pretraining import ContrastiveModel, two_towers

FILES = Path(__file__).parent / "files"
CLASSES = ["cat", "dog", "red bird"]
WORDS = ["<pad>", "<start>", "<unk>", "a", "photo", "of", "red", "cat", "dog", "bird", "<end>"]


def drawn(module: nn.Module) -> Any:
    """Fill every parameter from numpy's generator, by its name; matrices small, the rest near what it was."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            values = torch.from_numpy(rng.normal(size=tuple(p.shape)).astype(np.float32))
            p.copy_(values * p.shape[-1] ** -0.5 if p.ndim > 1 else p + 0.1 * values)
    return module


def tower(**options: Any) -> VisionTransformer:
    """A vision transformer of CLIP's kind: 16 pixels, 4 patches, width 24, 2 blocks."""
    given = dict(act="quick_gelu", pre_norm=True, patch_bias=False, out_dim=16, name="museum") | options
    return drawn(VisionTransformer(image_size=16, patch_size=8, dim=24, depth=2, num_heads=3, **given))


def small_clip() -> Any:
    """Both towers of a CLIP with a word tokenizer."""
    tokenizer = WordTokenizer(WORDS, 12)
    return drawn(two_towers(tower(), TextTransformer(tokenizer.vocab_size, 12, 20, 2, 2, 16), tokenizer))


class Samples:
    """Random items of a kind (`clips`, `image`, `cloud`, `points`, `boxes`, `pairs`), by (epoch, index)."""

    def __init__(self, kind: str, size: int = 12, seed: int = 0):
        self.kind, self.size, self.seed, self.classes = kind, size, seed, CLASSES

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: Any) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = np.random.default_rng([self.seed, epoch, index])
        item = {"sample_id": f"{self.kind}-{index}", **getattr(self, self.kind)(rng, index % 3)}
        return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in item.items()}

    def clips(self, rng: Any, label: int) -> dict[str, Any]:
        clips = rng.integers(0, 200, (1, 4, 3, 16, 16)) + 25 * label
        return {"clips": clips.astype(np.uint8), "label": label}

    def image(self, rng: Any, label: int) -> dict[str, Any]:
        return {"image": (rng.integers(0, 200, (3, 16, 16)) + 25 * label).astype(np.uint8), "label": label}

    def pairs(self, rng: Any, label: int) -> dict[str, Any]:
        return {**self.image(rng, label), "caption": f"a photo of a {CLASSES[label]}"}

    def coord(self, rng: Any) -> np.ndarray:
        return rng.normal(size=(64, 3)).astype(np.float32)

    def cloud(self, rng: Any, label: int) -> dict[str, Any]:
        return {"coord": self.coord(rng) * np.float32(1 + label), "label": label}

    def points(self, rng: Any, label: int) -> dict[str, Any]:
        coord = self.coord(rng)
        segment = np.where(coord[:, 2] > 1.5, -1, (coord[:, 0] > 0).astype(np.int64) + (coord[:, 1] > 0))
        return {"coord": coord, "feat": coord.copy(), "segment": segment.astype(np.int64)}

    def boxes(self, rng: Any, label: int) -> dict[str, Any]:
        boxes = np.concatenate([rng.normal(size=(2, 3)), rng.uniform(0.5, 1, (2, 3)), rng.uniform(-1, 1, (2, 1))], 1)
        found = {"boxes": boxes.astype(np.float32), "box_label": np.array([label, 0]), "box_mask": np.array([True] * 2)}
        return {"coord": self.coord(rng), **found}


def models() -> dict[str, tuple[str, dict[str, Any]]]:
    """Kind of data and model config of every run in the museum."""
    head = dict(type=ClassificationHead, num_classes=3)
    transfer = dict(type=TransferModel, encoder=dict(type=tower), head=head)
    cloud = dict(type=CloudModel, encoder=dict(type=tower))
    tokens = dict(num_groups=8, group_size=6, width=8)
    unet = dict(in_dim=6, planes=(8, 16), blocks=(1, 1), strides=(1, 4), num_neighbors=(4, 4))
    boxes = dict(num_angle_bins=4, decoder=dict(dim=12, num_heads=2, ffn_dim=12, depth=1, num_queries=4))
    return {
        "video-st-adapter": (
            "clips",
            {**transfer, "adapters": [dict(type=st_adapter, bottleneck=4)], "reader": dict(type=TimeMeanReader)},
        ),
        "video-evl": ("clips", {**transfer, "reader": dict(type=EVLDecoder, num_frames=4, num_layers=1)}),
        "cloud-classification": (
            "cloud",
            {**cloud, "network": dict(type="classification3d", num_classes=3, **tokens)},
        ),
        "cloud-segmentation": ("points", {**cloud, "network": dict(type="segmentation3d", num_classes=3, **unet)}),
        "cloud-detection": (
            "boxes",
            {**cloud, "network": dict(type="detection3d", num_classes=3, backbone=tokens, **boxes)},
        ),
        "image-lora": ("image", {**transfer, "adapters": [dict(type=lora, rank=2, alpha=3)]}),
        "contrastive": ("pairs", dict(type=ContrastiveModel, clip=dict(type=small_clip), classes=CLASSES)),
    }


METRICS = {
    "cloud": dict(type=CloudAccuracy),
    "points": dict(type=SegmentationMetric, classes=CLASSES),
    "boxes": dict(type=DetectionMetric, classes=CLASSES),
}
BEST = {"points": "miou", "boxes": "map25"}


def by_name(node: Any = None, **items: Any) -> Any:
    """A config whose types are dotted names, as mmengine writes it into the work directory."""
    node = items if node is None else node
    if isinstance(node, dict):
        return {key: by_name(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [by_name(value) for value in node]
    return f"{node.__module__}.{node.__qualname__}" if callable(node) else node


def config(name: str, work_dir: Path, **more: Any) -> Config:
    """The experiment of an exhibit: 8 steps of batches of 3, a validation after every 4."""
    kind, model = models()[name]
    metric = METRICS.get(kind, dict(type=Accuracy))
    cfg = Config(
        by_name(
            model=model,
            train_dataloader=dict(batch_size=3, num_workers=0, dataset=dict(type=Samples, kind=kind)),
            val_dataloader=dict(batch_size=3, num_workers=0, dataset=dict(type=Samples, kind=kind, size=5, seed=1)),
            val_evaluator=dict(metric),
            test_evaluator=dict(metric),
            optim_wrapper=dict(optimizer=dict(type=AdamW, lr=1e-2)),
            param_scheduler=dict(type=CosineSchedule, warmup_steps=2),
            train_cfg=dict(max_epochs=2, val_interval=1),
            work_dir=str(work_dir),
            launcher="none",
        )
    )
    set_defaults(cfg)
    cfg.default_hooks.checkpoint.update(best=BEST.get(kind, "top1"), every_steps=3)
    cfg.default_hooks.progress.interval = 1
    if name == "image-lora":
        cfg.default_hooks.ema = by_name(type=EMAHook, decay=0.9)
    cfg.update(more)
    return cfg


def train(name: str, work_dir: Path, resume: str | None = None, **more: Any) -> Any:
    """Run an exhibit's experiment; returns the runner."""
    return launch.train(config(name, work_dir, **more), resume)


def batch(name: str) -> dict[str, Any]:
    """Three validation samples as a batch."""
    from xmodal.data.collate import collate

    kind = models()[name][0]
    return collate([Samples(kind, 5, 1)[i] for i in range(3)])


@torch.no_grad()
def outputs(name: str, model: Any) -> dict[str, np.ndarray]:
    """What a model answers to its three samples: every array of its predictions."""
    model.eval()
    found = model(mode="predict", **model.data_preprocessor(batch(name)))
    arrays = {}
    for prediction in found:
        for key, value in prediction.items():
            if isinstance(value, np.ndarray | Tensor) and not key.startswith("target"):
                arrays[f"{prediction['sample_id']}.{key}"] = np.asarray(value)
    return arrays


def features(count: int = 5, dim: int = 16) -> Tensor:
    """Unit features (count, dim) for heads."""
    return nn.functional.normalize(torch.from_numpy(np.random.default_rng(3).normal(size=(count, dim))).float(), dim=1)


def images(count: int = 3) -> Tensor:
    """Normalized images (count, 3, 16, 16)."""
    return torch.from_numpy(np.random.default_rng(4).normal(size=(count, 3, 16, 16)).astype(np.float32))


def coop_head() -> Any:
    """CoOp on the small CLIP."""
    from xmodal.heads.coop import CoOpHead

    return CoOpHead(16, CLASSES, small_clip().requires_grad_(False).eval(), n_ctx=2)


def tip_head() -> Any:
    """Tip-Adapter on drawn features."""
    from xmodal.heads.tip_adapter import TipAdapterHead

    keys, values = features(6), torch.eye(3).repeat(2, 1)
    return TipAdapterHead(16, CLASSES, features(3), keys, values, alpha=1.5, beta=2.0, train_keys=True)
