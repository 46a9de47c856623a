"""Steps of configs on a pretended device: training loss, evaluation, backward pass and optimizer step."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from pointcloud import neighbors
from pointcloud.datasets.base import finish
from pointcloud.detection import detection3d, detr3d
from pointcloud.model import CloudModel
from pointcloud.point_transformer import point_transformer
from pointcloud.sparse_detection import epcl_sparse3d, vdetr3d_sparse
from pointcloud.toys.scenes import room
from pointcloud.uni3d import uni3d
from pointcloud.vdetr import vdetr3d, vdetr3d_epcl
from tests.device.shadow import Pretended, autocast
from tests.test_configs import random_weights
from xmodal.data.collate import collate
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.encoders.vjepa2 import SIZES
from xmodal.engine.config import load_config
from xmodal.engine.optim import TrainedGroups
from xmodal.fusion import FusionModel
from xmodal.registry import MODELS, build
from xmodal.toys.label_pretraining import ImageTextLabelModel
from xmodal.toys.shape_pool import ShapeThings

ON_POINTS = (detr3d, vdetr3d, epcl_sparse3d, vdetr3d_sparse)
DETECTORS = (*ON_POINTS, detection3d, vdetr3d_epcl)
NEED_VALUES = (CloudModel, ImageTextLabelModel)
PRECISIONS = (None, torch.bfloat16, torch.float16)
POINTS = 1024  # more than any network keeps
NAMES = ["red circle", "blue square", "green ring", "white cross"]


@contextmanager
def shallow(depth: int = 4) -> Iterator[None]:
    """Make V-JEPA 2 of a few blocks, whose depth no config can choose."""
    before = {k: dict(v) for k, v in SIZES.items()}
    try:
        for size in SIZES.values():
            size["depth"] = depth
        yield
    finally:
        SIZES.update(before)


@contextmanager
def quick_farthest() -> Iterator[None]:
    """Let farthest points be chosen outside the device but for the first two, whose operations say all there is."""
    whole = neighbors.sample_farthest

    def sample(points: Tensor, counts: Tensor, most: int, *rest: Tensor) -> Tensor:
        device = Pretended.current
        if device is None or not device.values or most < 3:
            return whole(points, counts, most, *rest)
        whole(points, counts, 2, *rest)
        with _disable_current_modes():
            return device.hold(whole(*device.inside([points, counts, most, *rest])))

    with patch.object(neighbors, "sample_farthest", sample):
        yield


def depth_of(cfg: Config) -> int:
    """Return how many blocks the config's reader needs."""
    reader = cfg.model.get("reader") or {}
    probes = [reader, *cfg.model.get("probes", ())]
    layers = [n for one in probes if isinstance(one, dict) for n in one.get("layers") or ()]
    return max(4, reader.get("num_layers", 0), 1 + max(layers, default=0))


def shorten(cfg: Config) -> Config:
    """Take few blocks of one kind and few tokens, which makes no other code run."""
    tower = cfg.model.get("encoder") or {}
    tower = tower.get("encoder", tower)
    if tower.get("type") is timm_encoder and "dino" not in tower.name:
        tower.arch = dict(depth=2)
    if tower.get("type") is open_clip_encoder:
        tower.arch = dict(vision_cfg=dict(layers=depth_of(cfg)))
    if "settings" in cfg.model:
        cfg.model.settings = cfg.model.settings[:2]
    if isinstance(cfg.model.get("classes"), str):
        cfg.model.classes = NAMES
    if cfg.model.get("network") is not None:
        shorten_network(cfg.model.network)
    if tower.get("type") is uni3d:
        tower.update(depth=2, num_groups=16, group_size=8)
    if tower.get("type") is point_transformer:
        n = 1 + len(tower.get("stride", range(4)))
        tower.update(
            enc_depths=(1,) * n, enc_channels=(8, 8, 16, 16, 32)[:n], enc_num_head=(2,) * n, enc_patch_size=(32,) * n
        )
        if tower.get("decoder"):
            tower.update(dec_depths=(1,) * 4, dec_channels=(8,) * 4, dec_num_head=(2,) * 4, dec_patch_size=(32,) * 4)
    return cfg


def shorten_network(network: Any) -> None:
    """Take few tokens, queries and voxels."""
    if "num_groups" in network:
        network.num_groups = 32
    if network.type in DETECTORS:
        few = {"num_points": 64} if network.type in ON_POINTS else {"num_groups": 32}
        few |= {"widths": (8, 16, 24, 32)} if network.type in (epcl_sparse3d, vdetr3d_sparse) else {}
        few |= {"depth": 18, "out_dim": 32, "voxel": 0.1} if network.type is vdetr3d_sparse else {}
        network.backbone = {**network.get("backbone", {}), **few}
        network.decoder = {**network.get("decoder", {}), "num_queries": 8, "depth": 2}


def built(path: Any, options: Any = (), where: str | None = None) -> tuple[Config, nn.Module, bool]:
    """Build the model of a config; returns config, model, and whether it computes with values."""
    cfg = shorten(random_weights(load_config(path, list(options))))
    values = cfg.model.type in NEED_VALUES
    with shallow(depth_of(cfg)), torch.device(where or ("cpu" if values else "meta")):
        return cfg, build(cfg.model, MODELS), values


def batch_for(cfg: Config, model: nn.Module) -> dict[str, Any]:
    """Make a batch of two samples as the config's data set gives them."""
    if isinstance(model, CloudModel):
        return clouds(cfg, model)
    if isinstance(model, ImageTextLabelModel):
        things = ShapeThings(2)
        return collate([things[i] for i in range(2)])
    names = {"sample_id": ["a", "b"]}
    label = torch.zeros(2, dtype=torch.long)
    if hasattr(model, "clip"):
        side = model.clip.visual.image_size
        return {**names, "image": pixels(2, 3, side, side), "caption": ["a red circle", "a cat"], "label": label}
    side = model.encoder.image_size
    if "num_frames" in cfg.train_dataloader.dataset:
        count = cfg.train_dataloader.dataset.num_frames
        return {**names, "clips": pixels(2, model.reader.segments, count, 3, side, side), "label": label}
    found = {**names, "image": pixels(2, 3, side, side), "label": label}
    if "segments" in path_of(cfg):
        del found["label"]
        found["segment"] = torch.zeros(2, side, side, dtype=torch.long)
    return found


def path_of(cfg: Config) -> str:
    """Return a config's file."""
    return str(cfg.filename)


def pixels(*shape: int) -> Tensor:
    """Return images of zeros; no value is looked at."""
    return torch.zeros(shape, dtype=torch.uint8)


def clouds(cfg: Config, model: CloudModel) -> dict[str, Any]:
    """Make two furnished rooms of unequal size with everything that a network may be taught."""
    network, padded = model.network, bool(cfg.train_dataloader.dataset.get("pad_to"))
    items = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        cloud = room(rng, POINTS, low=2, high=3)
        count = POINTS - 100 * seed * padded
        cloud = {k: v[:count] if k in ("coord", "feat", "segment") else v for k, v in cloud.items()}
        asked = (getattr(network, part, network) for part in ("criterion", "head"))
        classes = next(part.num_classes for part in (network, *asked) if hasattr(part, "num_classes"))
        cloud["feat"] = rng.random((count, network.feat_dim), np.float32)
        cloud["segment"], cloud["label"] = cloud["segment"] % classes, 0
        cloud["box_label"] = cloud["box_label"] % classes
        if not network.feat_dim:
            del cloud["feat"]
        items.append(finish(cloud, f"room {seed}", POINTS if padded else None, 8))
    keep = {"coord", "feat", "lengths", "sample_id", *network.targets}
    return collate([{k: v for k, v in item.items() if k in keep} for item in items])


@dataclass
class Step:
    """What a training step waits for, by place in the code.

    Args:
        waits: how often the host waited for the device.
        uploads: how often it waited for a copy to the device.
        steps: how many steps were run.
    """

    waits: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    steps: int = 0


def survey_model(path: Any, precisions: Any = PRECISIONS) -> Step:
    """Run a config's model in each precision and take a training step; returns what the step waits for."""
    cfg, model, values = built(path)
    batch = batch_for(cfg, model)
    on_cuda(model, batch, values, precisions)
    cfg, model, values = built(path)
    device = training_step(cfg, model, batch, values)
    return Step(device.waits, device.uploads, 1)


def loss_of(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Compute a training loss as a step does."""
    model.train()
    losses = model(**model.data_preprocessor(dict(batch), True), mode="loss")
    return model.parse_losses(losses)[0]


def evaluate(model: nn.Module, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Predict a batch as a validation does."""
    model.eval()
    with torch.no_grad():
        if isinstance(model, FusionModel):  # which is not judged while it trains
            return model(**model.data_preprocessor(dict(batch)), mode="tensor")
        return model.val_step(dict(batch))


def on_cuda(model: nn.Module, batch: dict[str, Any], values: bool, precisions: Any = PRECISIONS) -> Pretended:
    """Run a loss and an evaluation in each precision on a pretended GPU."""
    device = Pretended("cuda:0", values)
    no_cudnn = torch.backends.cudnn.flags(enabled=False)  # whose operations have no form for the CPU
    with quick_farthest(), device, no_cudnn:
        device.move(model)
        for dtype in precisions:
            with autocast(dtype):
                loss_of(model, batch)
                evaluate(model, batch)
    return device


class Lifted(TorchFunctionMode):
    """Make tensors of numbers on the host and copy them, as a GPU does: the meta device would drop the numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function."""
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            like, values = args[:2]
            return torch.tensor(values, dtype=kwargs.get("dtype", like.dtype)).to(like.device)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        return func(*args, **kwargs)


def training_step(cfg: Config, model: nn.Module, batch: dict[str, Any], values: bool) -> Pretended:
    """Take an optimizer step, backward pass and logging included, as the training loop does."""
    device = Pretended("meta", values)
    wrapper = {k: v for k, v in cfg.optim_wrapper.items() if k not in ("type", "amp")}
    with (
        quick_farthest(),
        Lifted(),
        device,
        patch("torch.autocast", lambda *_, **__: nullcontext()),
    ):  # which knows no meta device
        device.move(model)
        model.train()
        groups = TrainedGroups(wrapper, wrapper.pop("paramwise_cfg", None))
        optimizer = groups(model, say=False)
        optimizer.begin(1.0, last=True)
        model.train_step(dict(batch), optim_wrapper=optimizer)
    return device
