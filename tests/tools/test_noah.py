"""NOAH from the supernet to the retrained subnet, on the real digits."""

import json

import pytest
import torch

from tools.noah import main
from xmodal.adapters.noah import KINDS, choose_subnet
from xmodal.data.collate import collate
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.model import TransferModel
from xmodal.supernet import accuracy_of
from xmodal.toys.digits import Digits

pytest.importorskip("sklearn")
CONFIG = "configs/image/noah_tiny-clip_48_digits.py"


def test_digits_splits_share_no_image():
    rows = {split: set(Digits(split, shots=4).rows.tolist()) for split in ("train", "val", "test")}
    assert [len(rows[s]) for s in ("train", "val", "test")] == [40, 300, 500]
    assert not rows["train"] & rows["val"] | rows["train"] & rows["test"] | rows["val"] & rows["test"]
    assert set(Digits("trainval", shots=4).rows.tolist()) == rows["train"] | rows["val"]
    assert set(Digits("train", shots=4, draw=1).rows.tolist()) != rows["train"]
    item, tested = Digits("train", size=16)[3, 0], Digits("test", size=16, test_mode=True)[0]
    assert (item["image"].dtype, tested["image"].dtype) == (torch.uint8, torch.float32)
    assert item["image"].shape == (3, 16, 16)
    with pytest.raises(ValueError, match="trainval"):
        Digits("all")
    with pytest.raises(ValueError, match="training images a class"):
        Digits(shots=500)


def test_subnets_are_judged_each_by_its_own_weights():
    torch.manual_seed(0)
    model = TransferModel(
        tiny_clip_encoder(),
        dict(type="classification", num_classes=10),
        [dict(type="noah", prompt=4, lora=4, adapter=4)],
    )
    for p in model.encoder.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.5)
    model.head.fc.weight.data.normal_()
    batch = collate([Digits("val", test_mode=True)[i] for i in range(40)])
    sizes = [{kind: [n] * 4 for kind in KINDS} for n in (0, 2, 4)]
    choose_subnet(model.encoder, sizes[1])
    model.eval()
    batch["label"] = model(mode="tensor", image=model.data_preprocessor(dict(batch))["image"]).argmax(1)
    judge = accuracy_of(model, [batch])
    found = [judge(s) for s in sizes]
    assert found[1] == 1
    assert max(found[0], found[2]) < 1
    assert found == [judge(s) for s in sizes]


@pytest.mark.slow
def test_supernet_search_and_retraining(tmp_path, capsys):
    out = tmp_path / "noah"
    command = [CONFIG, "--work-dir", str(out), "--dims", "1", "4", "--depths", "2", "4", "--limit", "30000"]
    command += ["--supernet-epochs", "3", "--search-epochs", "2", "--population", "6", "--parents", "3"]
    command += ["--cfg-options", "train_cfg.max_epochs=2", "param_scheduler.warmup_epochs=1"]
    command += ["train_dataloader.dataset.shots=4"]
    command += ["--final", "train_dataloader.dataset.split=trainval", "val_dataloader.dataset.split=test"]
    assert main([*command, "--until", "search"]) == 0
    half = json.loads((out / "noah.json").read_text())
    evaluated = json.loads((out / "search.json").read_text())["judged"]
    assert len(evaluated) >= 6
    assert main(command) == 0
    assert json.loads((out / "search.json").read_text())["judged"] == evaluated  # nothing was searched again
    result = json.loads((out / "noah.json").read_text())
    assert result["sizes"] == half["sizes"]
    assert result["weights"] + 10 * (96 + 1) == result["trained"]
    assert result["weights"] < 30_000
    assert 0 <= result["last"] <= result["best"] <= 100
    assert "retrained" in capsys.readouterr().out
