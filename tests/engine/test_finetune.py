"""A run that starts from other weights: the head for other classes starts anew, all else is kept."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tools.test_train_tools import tool
from xmodal.engine.checkpoint import LAST, read, write
from xmodal.engine.finetune import find_file, load_start
from xmodal.registry import MODELS, build

MODEL = dict(
    type="transfer",
    encoder=dict(type="tiny_clip_encoder"),
    adapters=[dict(type="lora", rank=2)],
    head=dict(type="classification", num_classes=2),
)
CONFIG = """
from torch.optim import AdamW
from xmodal.data.images import ImageDataset
from xmodal.data.transforms import Resize
from xmodal.adapters.lora import lora
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

model = dict(type=TransferModel, encoder=dict(type=tiny_clip_encoder), adapters=[dict(type=lora, rank=2)],
             head=dict(type=ClassificationHead, num_classes=NUM))
_set = dict(type=ImageDataset, annotation='DATA', transforms=[dict(type=Resize, size=[48, 48])])
train_dataloader = dict(batch_size=4, dataset=dict(**_set))
val_dataloader = dict(batch_size=4, dataset=dict(**_set, test_mode=True))
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2))
train_cfg = dict(max_epochs=1)
"""


def config(folder, names, file="c.py"):
    for number, name in enumerate(names):
        (folder / file[0] / name).mkdir(parents=True)
        for i in range(2):
            picture = np.full((48, 48, 3), 60 * number + i, np.uint8)
            Image.fromarray(picture).save(folder / file[0] / name / f"{i}.png")
    text = CONFIG.replace("DATA", str(folder / file[0])).replace("NUM", str(len(names)))
    (folder / file).write_text(text)
    return str(folder / file)


def test_other_classes_get_a_new_head_in_one_line(tmp_path, capsys):
    first = config(tmp_path, ["a", "b"], "a.py")
    assert tool("train")([first, "--work-dir", str(tmp_path / "w")]) == 0
    second = config(tmp_path, ["x", "y", "z"], "b.py")
    args = [second, "--work-dir", str(tmp_path / "v"), "--load-from", str(tmp_path / "w"), "--cfg-options"]
    assert tool("train")([*args, "optim_wrapper.optimizer.lr=0.0"]) == 0
    out = capsys.readouterr().out
    assert "new head: head.fc.bias, head.fc.weight start from fresh weights" in out
    assert "for 2 classes" in out
    old, new = (read(tmp_path / w / LAST) for w in "wv")
    kept = [key for key in old["state_dict"] if "head" not in key]
    assert len(kept) > 8
    assert all(torch.equal(old["state_dict"][key], new["state_dict"][key]) for key in kept)
    assert new["state_dict"]["head.fc.weight"].shape == (3, 96)
    assert new["meta"]["step"] == 2  # the position of a run of its own
    # --resume goes on with this run, not from the weights it began with
    assert (
        tool("train")(
            [*args, "train_cfg.max_epochs=2", "optim_wrapper.optimizer.lr=0.0", "--resume", "--allow-changes"]
        )
        == 0
    )
    assert "Going on after step 2 of 4" in capsys.readouterr().out


@pytest.fixture
def checkpoint(tmp_path):
    model = build(MODEL, MODELS)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_()
    state = {k: model.state_dict()[k].clone() for k in model.saved_keys()}
    meta = {"format": 1, "step": 7, "encoder": model.frozen_fingerprint(), "classes": ["a", "b"]}
    write(tmp_path / "x.pth", {"meta": meta, "state_dict": state})
    return tmp_path / "x.pth", state


def test_the_head_is_kept_where_it_fits_unless_told(checkpoint):
    path, state = checkpoint
    model = build(MODEL, MODELS)
    load_start(model, str(path), ["a", "b"])
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    fresh = build(MODEL, MODELS)
    before = fresh.head.fc.weight.clone()
    load_start(fresh, str(path), ["a", "b"], new_head=True)
    assert torch.equal(fresh.head.fc.weight, before)
    others = [k for k in state if "head" not in k]
    assert all(torch.equal(fresh.state_dict()[k], state[k]) for k in others)


def test_weights_that_do_not_fit_are_named(checkpoint, tmp_path):
    path, _ = checkpoint
    with pytest.raises(ValueError, match=r"does not fit this model: .*its config.py"):
        load_start(build({**MODEL, "adapters": [dict(type="lora", rank=3)]}, MODELS), str(path))
    with pytest.raises(ValueError, match=r"does not fit this model"):
        load_start(build({**MODEL, "adapters": []}, MODELS), str(path))
    other = {**MODEL, "encoder": dict(type="tiny_clip_encoder", weights="random")}
    with pytest.raises(ValueError, match="was trained on encoder"):
        load_start(build(other, MODELS), str(path))


def test_names_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no checkpoint at load_from='st-adapter'.*checkpoints.*XMODAL_CHECKPOINTS"):
        find_file("st-adapter")
    for place in ("kept/st-adapter.pyth", "work_dirs/mine/best.pth"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"x")
    monkeypatch.setenv("XMODAL_CHECKPOINTS", str(tmp_path / "kept"))
    assert find_file("st-adapter").name == "st-adapter.pyth"
    assert str(find_file("mine")) == "work_dirs/mine/best.pth"
    assert str(find_file("work_dirs/mine")) == "work_dirs/mine/best.pth"


def test_a_new_head_without_weights_to_start_from(tmp_path, capsys):
    assert tool("train")([config(tmp_path, ["a", "b"], "a.py"), "--new-head", "--work-dir", str(tmp_path / "w")]) == 2
    assert "give --load-from" in capsys.readouterr().err
