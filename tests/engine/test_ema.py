"""The running average of the weights: its formula, that it is validated, and that training does not see it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.engine.toy import CONFIG, ToyModel, write_config
from xmodal.engine import launch
from xmodal.engine.checkpoint import LAST, load_weights, read
from xmodal.engine.ema import EMAHook

EVERY = CONFIG.replace("val_interval=2", "val_interval=1")
EMA = EVERY.replace("default_hooks = dict(", "default_hooks = dict(ema=dict(type='ema', decay=0.5), ")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two runs that differ in the average alone; each validates after every epoch."""
    folder = tmp_path_factory.mktemp("ema")
    for name, text in (("plain", EVERY), ("ema", EMA)):
        launch.train(launch.prepare(write_config(folder, text), str(folder / name)))
    return folder


def test_training_goes_on_from_the_weights_themselves(runs):
    """A run that validates its average four times ends with the weights of a run that has none."""
    plain, averaged = (read(runs / name / LAST)["state_dict"] for name in ("plain", "ema"))
    assert plain.keys() == averaged.keys()
    assert all(torch.equal(plain[key], averaged[key]) for key in plain)


def test_the_average_is_of_the_trained_part(runs):
    last = read(runs / "ema" / LAST)
    average, weights = last["ema_state_dict"], last["state_dict"]
    assert set(average) == {
        "head.weight", "head.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
    }  # fmt: skip
    assert not torch.equal(average["head.weight"], weights["head.weight"])


def test_a_test_loads_what_was_evaluated(runs):
    best, model = read(runs / "ema" / "best.pth"), ToyModel()
    assert best["meta"]["evaluated"] == "ema"
    load_weights(model, runs / "ema" / "best.pth")
    assert torch.equal(model.head.weight.detach(), best["ema_state_dict"]["head.weight"])
    assert not torch.equal(model.head.weight.detach(), best["state_dict"]["head.weight"])
    load_weights(model, runs / "plain" / "best.pth")
    assert torch.equal(model.head.weight.detach(), read(runs / "plain" / "best.pth")["state_dict"]["head.weight"])


def test_the_average_by_the_formula():
    order = torch.Generator().manual_seed(0)
    weights = torch.randn(30, generator=order).tolist()
    runner = SimpleNamespace(model=nn.Linear(1, 1, bias=False), iter=0)
    nn.init.constant_(runner.model.weight, 1.0)
    hook, want = EMAHook(decay=0.3), 1.0
    hook.before_train(runner)
    for step, value in enumerate(weights, start=1):
        nn.init.constant_(runner.model.weight, value)
        runner.iter = step - 1  # the hook is called before the loop counts the step
        hook.after_train_iter(runner, 0)
        keep = min(0.3, (1 + step) / (10 + step))
        want = keep * want + (1 - keep) * value
        assert hook.average["weight"].item() == pytest.approx(want, abs=1e-5), step
    with pytest.raises(ValueError, match="between 0 and 1"):
        EMAHook(decay=1.0)


def validation(evaluate=True, training=True, model=None):
    """Values of the weight and of its average: before, in and after a validation."""
    model = model or nn.Linear(1, 1, bias=False)
    runner = SimpleNamespace(model=model, iter=0, training=training)
    nn.init.constant_(next(model.parameters()), 2.0)
    hook = EMAHook(evaluate=evaluate)
    hook.average = {key: torch.full_like(value, 5.0) for key, value in hook.current(runner).items()}
    look = lambda: (next(model.parameters()).item(), *(v.item() for v in hook.average.values()))  # noqa: E731
    seen = [look()]
    hook.before_val_epoch(runner)
    seen.append(look())
    hook.after_val_epoch(runner)
    return [*seen, look()]


def test_the_average_is_what_is_validated():
    assert validation()[1][0] == 5


def test_the_average_survives_a_validation():
    first, _, last = validation()
    assert first == last == (2, 5)


def test_the_weights_are_validated_where_the_average_is_not_asked_for():
    assert validation(evaluate=False) == [(2, 5)] * 3
    assert validation(training=False) == [(2, 5)] * 3


def test_a_tied_weight_is_exchanged_once():
    model = nn.ModuleDict({"one": nn.Linear(1, 1, bias=False), "two": nn.Linear(1, 1, bias=False)})
    model["two"].weight = model["one"].weight
    first, inside, last = validation(model=model)
    assert first == last == (2, 5, 5)
    assert inside[0] == 5


def test_a_resumed_run_goes_on_with_its_average():
    runner = SimpleNamespace(model=nn.Linear(1, 1, bias=False), iter=7)
    hook = EMAHook()
    hook.after_load_checkpoint(runner, {"ema_state_dict": {"weight": torch.tensor([[5.0]])}})
    hook.before_train(runner)
    assert hook.average["weight"].item() == 5
    with pytest.raises(ValueError, match="holds no average"):
        hook.after_load_checkpoint(runner, {})
