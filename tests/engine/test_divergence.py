"""What is not finite never moves a weight, never enters a checkpoint, and can be repeated."""

import json

import pytest
import torch

from tests.engine.toy import CONFIG, ToyData, write_config
from xmodal.engine import launch
from xmodal.engine.checkpoint import not_finite, read, write
from xmodal.engine.optim import MAX_SKIPS, NotFiniteError, OptimWrapper
from xmodal.engine.predict import described
from xmodal.registry import DATASETS


@DATASETS.register_module(name="toy_poison", force=True)
class PoisonData(ToyData):
    """One sample has a value that is not finite."""

    def __init__(self, poison=5, value=float("nan"), **options):
        super().__init__(**options)
        self.poison, self.value = poison, value

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        if (key[1] if isinstance(key, tuple) else key) == self.poison:
            sample["x"][2] = self.value
        return sample


POISON = CONFIG.replace(
    "dataset=dict(type=ToyData, size=_size)", "dataset=dict(type='toy_poison', size=_size, poison=<index>)"
)
# every step is a log point in CONFIG; here none is
SELDOM = POISON.replace("interval=1", "interval=500")


def steps_of(index, epoch=0):
    from xmodal.data.sampler import order_of

    return order_of(24, 0, epoch).tolist().index(index) // 5 + 1


@pytest.mark.parametrize("index", [0, 11, 20])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path, index):
    text = SELDOM.replace("<index>", str(index)).replace("val_interval=2", "val_interval=1")
    cfg = launch.prepare(write_config(tmp_path, text), str(tmp_path / "w"), ["default_hooks.checkpoint.every_steps=1"])
    step = steps_of(index)
    with pytest.raises(FloatingPointError, match=rf"the loss is nan in step {step} .*s{index}\b.*--replay"):
        launch.train(cfg)
    last = tmp_path / "w" / "last.pth"
    assert not last.exists() if step == 1 else read(last)["meta"]["step"] == step - 1
    entry = json.loads((tmp_path / "w" / "bad_step.json").read_text())
    assert (entry["step"], entry["epoch"]) == (step, 0)
    assert f"s{index}" in entry["samples"]
    assert [0, index] in entry["keys"]
    report = json.loads((tmp_path / "w" / "report.json").read_text())
    assert report["status"] == "failed"
    assert "the loss is nan" in report["error"]


def test_the_step_is_repeated_exactly(tmp_path, monkeypatch):
    """The weights from before the step, its samples and its dropout: the same module is the first to blame."""
    text = SELDOM.replace("<index>", "11")
    config = write_config(tmp_path, text)
    with pytest.raises(FloatingPointError):
        launch.train(launch.prepare(config, str(tmp_path / "w")))
    kept = torch.load(tmp_path / "w" / "bad_step.pt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(v).all() for k, v in kept.items() if k.startswith("head"))
    said = []
    monkeypatch.setattr("xmodal.engine.divergence.print_log", lambda text, **_: said.append(text))
    launch.repeat(launch.prepare(config, str(tmp_path / "other")), str(tmp_path / "w" / "bad_step.json"))
    assert "not finite first: the output of encoder.fc" in said[-1]
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"weights": "none.pt", "keys": []}', "<html>"])
def test_a_foreign_replay_file_is_named(tmp_path, content):
    (tmp_path / "b.json").write_text(content)
    cfg = launch.prepare(write_config(tmp_path), str(tmp_path / "w"))
    with pytest.raises(ValueError, match=r"b\.json is no bad_step\.json"):
        launch.repeat(cfg, str(tmp_path / "b.json"))


def wrapper(amp=None, **options):
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW([{"params": weights, "names": ["a", "b"]}], lr=0.1)
    made = OptimWrapper(optimizer, **options)
    if amp:
        made.amp, made.scaler = amp, torch.amp.GradScaler("cpu")
    return made, weights


@pytest.mark.parametrize("clip", [None, {"max_norm": 1.0}, {"type": "value", "clip_value": 0.5}])
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(odd, clip):
    made, (a, b) = wrapper(clip_grad=clip)
    made.update_params((a * torch.tensor([1.0, 2.0, 3.0])).sum() + b.sum())
    before = [a.detach().clone(), b.detach().clone()]
    made.backward(a.sum() + b.sum())
    b.grad[1] = odd
    with pytest.raises(NotFiniteError, match="the gradient of b is not finite"):
        made.step()
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_parts_of_a_batch_are_looked_at_together():
    made, (a, b) = wrapper()
    made.begin(0.5, last=False)
    made.update_params((a / 0).sum())
    made.begin(0.5, last=True)
    with pytest.raises(NotFiniteError, match="the loss is inf"):
        made.update_params(b.sum())


def test_a_loss_without_a_gradient_counts_too():
    made, (a, b) = wrapper()
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        made.update_params(a.sum() + b.sum() + torch.tensor(float("nan")))


def test_fp16_skips_a_bounded_number_of_steps_in_a_row():
    made, (a, _) = wrapper(amp="fp16")
    before = a.detach().clone()
    for _ in range(MAX_SKIPS):
        made.update_params((a * float("inf")).sum())
    assert torch.equal(a, before)
    with pytest.raises(NotFiniteError):
        made.update_params((a * float("inf")).sum())
    made, (a, _) = wrapper(amp="fp16")
    for i in range(3 * MAX_SKIPS):
        made.update_params((a * (float("inf") if i % 2 else 1.0)).sum())  # never two in a row
    assert torch.isfinite(a).all()
    assert not torch.equal(a, before)


def test_no_checkpoint_holds_what_is_not_finite(tmp_path):
    write(tmp_path / "a.pth", {"state_dict": {"w": torch.ones(2)}})
    whole = (tmp_path / "a.pth").read_bytes()
    odd = {
        "state_dict": {"w": torch.ones(2)},
        "optimizer": {"state": {0: {"exp_avg": torch.tensor([1.0, float("inf")])}}},
    }
    with pytest.raises(FloatingPointError, match=r"optimizer\.state\.0\.exp_avg is not finite: .*a\.pth is left"):
        write(tmp_path / "a.pth", odd)
    assert (tmp_path / "a.pth").read_bytes() == whole
    assert not_finite([{"x": torch.tensor([1])}, (torch.tensor(float("nan")),)]) == "1.0"
    assert not_finite({"a": "nan", "b": None}) is None


TEST_POISON = CONFIG.replace(
    "dataset=dict(type=ToyData, size=13, seed=99, test=True)",
    "dataset=dict(type='toy_poison', size=13, seed=99, test=True, poison=6)",
)


def test_no_accuracy_is_made_of_predictions_that_are_not_finite(tmp_path):
    config = write_config(tmp_path, TEST_POISON)
    runner = launch.train(launch.prepare(config, str(tmp_path / "w")))
    assert runner.iter == 20  # validations have no figures, and training goes on
    report = json.loads((tmp_path / "w" / "report.json").read_text())
    assert report["epochs"][-1]["val"]["top1"] is None
    assert report["epochs"][-1]["val"]["not_finite"] == 1
    assert report["best"] == {}
    assert not (tmp_path / "w" / "best.pth").exists()
    cfg = launch.prepare(config, str(tmp_path / "w"))
    with pytest.raises(FloatingPointError, match=r"predictions of 1 samples are not finite \(s6\)"):
        launch.evaluate(cfg, str(tmp_path / "w" / "last.pth"))


def test_weights_that_are_not_finite_are_not_loaded(tmp_path):
    """Checkpoints of other versions may hold them."""
    config = write_config(tmp_path)
    launch.train(launch.prepare(config, str(tmp_path / "w")))
    content = read(tmp_path / "w" / "last.pth")
    content["state_dict"]["head.weight"][0, 0] = float("nan")
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth: head\.weight is not finite"):
        launch.evaluate(launch.prepare(config, str(tmp_path / "w")), str(tmp_path / "odd.pth"))


def test_scores_that_are_not_finite_are_no_prediction():
    assert "not finite" in described(torch.tensor([0.1, float("nan")]), ["a", "b"], 2)["error"]
    assert described(torch.tensor([0.25, 0.75]), ["a", "b"], 1)["name"] == "b"
