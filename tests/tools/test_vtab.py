import json

import numpy as np
import pytest
from PIL import Image

from tools.vtab import main
from xmodal.evaluation.image_tasks import folder_of, grid, last_and_best, table, task_options

CONFIG = '''"""A toy."""
from mmengine.config import read_base
from torch.optim import AdamW

from xmodal.data.images import ImageDataset
from xmodal.data.transforms import Resize
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

about = dict(benchmark="vtab", settings=None)
model = dict(type=TransferModel, encoder=dict(type=tiny_clip_encoder, weights="random"),
             head=dict(type=ClassificationHead, num_classes=2))
data = None
_data = dict(type=ImageDataset, annotation="nowhere", root=None, format="list", transforms=[dict(type=Resize, size=48)])
train_dataloader = dict(batch_size=4, dataset=dict(**_data))
val_dataloader = dict(batch_size=8, dataset=dict(**_data, test_mode=True))
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2))
train_cfg = dict(max_epochs=2)
'''.replace("data = None\n", "").replace("from mmengine.config import read_base\n", "")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two tasks of VTAB-1k with a few tiny images each, and a config."""
    root = tmp_path_factory.mktemp("vtab")
    for folder, classes in (("kitti", 4), ("eurosat", 10)):
        (root / folder / "images").mkdir(parents=True)
        for split, count in (("train800", 6), ("val200", 3), ("train800val200", 9), ("test", 4)):
            lines = []
            for i in range(count):
                name = f"images/{split}_{i}.png"
                pixels = np.random.default_rng(i).integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / name)
                lines.append(f"{name} {i % classes}")
            (root / folder / f"{split}.txt").write_text("\n".join(lines))
    (root / "toy.py").write_text(CONFIG)
    return root


def call(world, out, *more):
    return main([str(world / "toy.py"), "--root", str(world), "--out", str(out), *more])


def test_tasks_run_resume_and_are_tabled(world, tmp_path, capsys):
    out = tmp_path / "runs"
    assert call(world, out, "--tasks", "kitti", "eurosat") == 0
    text = (out / "table.txt").read_text()
    assert "kitti" in text
    assert "eurosat" in text
    assert "best epoch on the test split itself" in text
    assert "normalization: " in text
    assert "the test list has 4 images, that of the benchmark 711" in text
    kept = json.loads((out / "kitti/seed-0/result.json").read_text())
    assert {"last", "best", "best_epoch", "settings", "trained_parameters"} <= set(kept)
    assert kept["best"] >= kept["last"]
    before = (out / "kitti/seed-0/final/report.json").stat().st_mtime_ns
    (out / "kitti/seed-0/result.json").write_text(json.dumps({**kept, "last": 12.34}))
    (out / "eurosat/seed-0/result.json").unlink()
    assert call(world, out, "--tasks", "kitti", "eurosat") == 0
    assert "12.34" in (out / "table.txt").read_text()  # what is there is not run again
    assert (out / "kitti/seed-0/final/report.json").stat().st_mtime_ns == before
    assert (out / "eurosat/seed-0/result.json").is_file()
    (out / "kitti/seed-0/result.json").unlink()
    assert call(world, out, "--tasks", "kitti", "--cfg-options", "train_cfg.max_epochs=3") == 2
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--tasks", "kity"], "did you mean 'kitti'"),
        (["--tasks", "dtd"], "the folder of vtab/dtd is not there"),
        (["--tasks", "kitti", "--search"], "no published search"),
        (["--tasks", "kitti", "--cfg-options", "about.benchmark=vtap"], "names no benchmark"),
    ],
)
def test_mistakes_end_with_one_line(world, tmp_path, capsys, more, said):
    assert call(world, tmp_path, *more) == 2
    assert said in capsys.readouterr().err


def test_settings_become_options():
    published = {"options": ["a.b", "c"], "tasks": {"dtd": [0.01, 3]}, "search": {"lr": [2, 1], "wd": [0.1, 0]}}
    assert task_options(published, "dtd") == ["a.b=0.01", "c=3"]
    assert task_options(published, "pets") == []
    assert grid(published) == [["lr=1", "wd=0"], ["lr=1", "wd=0.1"], ["lr=2", "wd=0"], ["lr=2", "wd=0.1"]]
    assert grid({}) == []


def test_last_and_best_epoch_are_both_told():
    epochs = [{"epoch": e, "val": {"top1": t}} for e, t in ((10, 50.0), (20, 70.0), (30, 70.0), (40, 60.0))]
    assert last_and_best({"epochs": epochs}) == (60.0, 70.0, 20)
    with pytest.raises(ValueError, match="validated nothing"):
        last_and_best({"epochs": [{"epoch": 1}]})


def test_table_of_shots_and_seeds(tmp_path):
    norm = {"mean": [0.5] * 3, "std": [0.5] * 3}
    common = {"settings": {"from": "published"}, "normalization": norm, "evaluated": 9, "of": 9}
    names = ("aircraft", "food101", "flowers", "pets", "cars")
    rows = [{"task": n, "shots": 1, "last": 10.0 * i + s, "best": 99.0, **common}
            for i, n in enumerate(names) for s in (0, 2)]  # fmt: skip
    text = table(rows, "fewshot")
    assert "1 shots" in text
    assert "21.00" in next(line for line in text.splitlines() if line.startswith("Few-shot"))
    rows[0]["evaluated"] = 8
    assert "only 8 of 9 test images could be read" in table(rows, "fewshot")
    assert table([], "vtab") == "no results yet"
    assert folder_of(tmp_path, "fewshot", "pets", 4, 1) == tmp_path / "pets_4-shot" / "seed-1"
