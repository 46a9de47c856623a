"""What a checkpoint holds and refuses."""

import pytest
import torch
from torch import nn

from tests.engine.toy import CONFIG, ToyModel, write_config
from xmodal.engine import checkpoint, launch


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    launch.train(launch.prepare(write_config(folder), str(folder / "w"), ["default_hooks.checkpoint.keep_epochs=2"]))
    return folder / "w"


def test_holds_only_what_was_trained_and_opens_safely(done):
    last = torch.load(done / "last.pth", weights_only=True)
    assert set(last["state_dict"]) == {
        "head.weight", "head.bias", "norm.weight", "norm.bias",
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    }  # fmt: skip
    meta = last["meta"]
    assert meta["classes"] == ["class 0", "class 1", "class 2"]
    assert meta["encoder"]["encoder"] == "toy"
    assert (meta["step"], meta["epoch"], meta["validated"]) == (20, 4, True)
    for name in ("best.pth", "epoch_2.pth", "epoch_4.pth"):
        assert not {"optimizer", "random", "report"} & set(torch.load(done / name, weights_only=True))
    assert not list(done.glob(".*tmp"))


def test_loads_what_was_trained(done):
    model = ToyModel()
    meta = checkpoint.load_weights(model, done / "last.pth")
    assert meta["step"] == 20
    assert torch.equal(model.head.weight, torch.load(done / "last.pth", weights_only=True)["state_dict"]["head.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state_dict"].pop("head.bias"), "1 of 7 trained tensors are missing .head.bias"),
        (lambda c: c["state_dict"].update({"head.other": torch.zeros(1)}), "1 are unexpected .head.other"),
        (lambda c: c["state_dict"].update({"head.bias": torch.zeros(9)}), r"shape \(9,\), the model's \(3,\)"),
        (lambda c: c["meta"]["encoder"].update(sha256="0" * 64), "trained on encoder toy .weights 0000"),
        (lambda c: c["meta"].update(format=99), "not a checkpoint written by"),
        (lambda c: c.pop("meta"), "not a checkpoint written by"),
    ],
)
def test_refuses_what_does_not_fit(done, tmp_path, change, message):
    content = torch.load(done / "last.pth", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=message):
        checkpoint.load_weights(ToyModel(), tmp_path / "odd.pth")


def test_refuses_other_files(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        checkpoint.read(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.read(tmp_path / "text.pth")


def test_weights_alone_cannot_be_resumed(done, tmp_path):
    cfg = launch.prepare(write_config(tmp_path), str(tmp_path / "w"))
    with pytest.raises(ValueError, match=r"weights only; resume from last\.pth"):
        launch.train(cfg, str(done / "best.pth"))


def test_a_write_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint.write(tmp_path / "a.pth", {"x": 1})

    def die(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(tmp_path / "a.pth", {"x": 2})
    assert torch.load(tmp_path / "a.pth", weights_only=True) == {"x": 1}


def test_kept_but_untrained_tensors_are_saved():
    class Kept(ToyModel):
        def __init__(self):
            super().__init__()
            self.dead = nn.Linear(2, 2).requires_grad_(False)

        def saved_keys(self):
            return {"dead.weight", "dead.bias"}

    assert {"dead.weight", "dead.bias", "head.weight"} <= set(checkpoint.own_state(Kept()))
    assert not [k for k in checkpoint.own_state(Kept()) if k.startswith("encoder")]


def test_shared_weights_are_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self, tied):
            super().__init__()
            self.a, self.b = nn.Linear(200, 200), nn.Linear(200, 200)
            if tied:
                self.b = self.a

    for tied in (True, False):
        model = Tied(tied)
        state = checkpoint.own_state(model)
        checkpoint.write(tmp_path / f"{tied}.pth", {"state_dict": state})
        read = torch.load(tmp_path / f"{tied}.pth", weights_only=True)["state_dict"]
        assert set(read) == {"a.weight", "a.bias", "b.weight", "b.bias"}
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in read.items())
        with torch.no_grad():
            model.a.weight.zero_()
        assert state["a.weight"].any()  # a copy
    whole = 4 * 200 * 201
    assert whole < (tmp_path / "True.pth").stat().st_size < 1.1 * whole
    assert (tmp_path / "False.pth").stat().st_size > 2 * whole


def test_random_states_round_trip():
    import random

    import numpy as np

    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), np.random.randn()

    np.random.randn()  # leaves a second normal number in store
    state = checkpoint.random_state()
    first = draw()
    checkpoint.set_random_state(state)
    assert draw() == first


def test_same_config_text_style(tmp_path):
    """A config of registered names, without imports, in mmengine's older style."""
    text = CONFIG.split("\n\n", 1)[1]
    for name, short in {
        "ToyModel": "'toy'",
        "ToyData": "'toy_data'",
        "AdamW": "'AdamW'",
        "CosineSchedule": "'cosine'",
    }.items():
        text = text.replace(f"type={name}", f"type={short}")
    runner = launch.train(launch.prepare(write_config(tmp_path, text), str(tmp_path / "w")))
    assert runner.iter == 20
