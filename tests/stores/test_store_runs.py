"""A run that reads tars from a failing server, is killed and resumed, has the losses of one that reads files."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.engine.test_resume import assert_same, run
from tests.stores.server import serving
from xmodal.data import fetch
from xmodal.data.packing import pack, plan

CONFIG = """
from torch.optim import AdamW
from xmodal.adapters.lora import lora
from xmodal.data.images import ImageDataset
from xmodal.data.transforms import HorizontalFlip, RandomCrop
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

model = dict(
    type=TransferModel,
    encoder=dict(type=tiny_clip_encoder),
    adapters=[dict(type=lora, rank=2, targets=["q"])],
    head=dict(type=ClassificationHead, num_classes=2),
)
_transforms = [dict(type=RandomCrop, size=48), dict(type=HorizontalFlip)]
train_dataloader = dict(
    batch_size=4, num_workers=2, dataset=dict(type=ImageDataset, annotation=ROOT, transforms=_transforms)
)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2))
param_scheduler = dict(type=CosineSchedule, warmup_epochs=0)
train_cfg = dict(max_epochs=4)
default_hooks = dict(progress=dict(type="progress", interval=1))
"""


def test_a_run_on_a_failing_server_killed_and_resumed_is_one_on_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XMODAL_STORE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "files" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (56, 60, 3), dtype=np.uint8)).save(path)
    for job in plan(tmp_path / "files", tmp_path / "packed", 50_000):
        pack(job)
    options = ["default_hooks.checkpoint.every_steps=2"]
    text = lambda root: CONFIG.replace("ROOT", repr(root))  # noqa: E731
    run(tmp_path, text(str(tmp_path / "files")), "whole", options=options)
    with serving(tmp_path / "packed", every=20) as server:
        url = text(f"{server.url}/shard-*.tar")
        run(tmp_path, url, "parts", options=options, stop_at=7)
        shutil.rmtree(fetch.cache_folder())
        run(tmp_path, url, "parts", resume="auto", options=options)
        assert server.failed >= 2
    assert_same(tmp_path, "whole", "parts")


def test_a_store_that_goes_away_ends_a_run_by_its_name(tmp_path, monkeypatch):
    """Not as many broken files."""
    from xmodal.data import trouble

    monkeypatch.setattr(trouble, "WAITS", (0, 0))
    monkeypatch.setenv("XMODAL_STORE_CACHE_GB", "0")
    for number in range(12):
        path = tmp_path / "files" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 50), (number, 0, 0)).save(path)
    for job in plan(tmp_path / "files", tmp_path / "packed", 50_000):
        pack(job)
    with serving(tmp_path / "packed") as server:
        from xmodal.data.images import ImageDataset

        build = ImageDataset.__init__

        def then_down(self, *args, **options):
            build(self, *args, **options)
            server.down = True

        monkeypatch.setattr(ImageDataset, "__init__", then_down)
        text = CONFIG.replace("ROOT", repr(f"{server.url}/*.tar")).replace("num_workers=2", "num_workers=0")
        with pytest.raises(trouble.TroubleError, match=f"the store {server.url} fails"):
            run(tmp_path, text, "w")
