"""Groups, schedules, averages."""

import math

import pytest
import torch
from torch import nn

from tests.engine.toy import CONFIG, write_config
from xmodal.engine import launch
from xmodal.engine.checkpoint import LAST, read
from xmodal.engine.optim import TrainedGroups, param_groups, table
from xmodal.engine.schedule import ConstantSchedule, CosineSchedule


def tower():
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)),
            "adapter": nn.Linear(3, 3),
            "head": nn.Linear(3, 2),
        }
    )
    model["encoder"][0].requires_grad_(False)
    return model


def test_only_what_trains_in_as_few_groups_as_possible():
    groups = param_groups(tower(), 0.1, 0.05, no_decay=["norm", ".bias"], lr_mult={"encoder": 0.05})
    found = {g["name"]: (g["lr"], g["weight_decay"], sorted(g["names"])) for g in groups}
    assert found == {
        "encoder x0.05, no decay": (pytest.approx(0.005), 0.0, ["encoder.1.bias", "encoder.1.weight"]),
        "trained": (0.1, 0.05, ["adapter.weight", "head.weight"]),
        "trained, no decay": (0.1, 0.0, ["adapter.bias", "head.bias"]),
    }


def test_official_rules():
    everything = param_groups(tower(), 4e-4, 0.05)  # EVL
    assert [(g["weight_decay"], len(g["params"])) for g in everything] == [(0.05, 6)]
    no_bias = param_groups(tower(), 1e-3, 1e-2, no_decay=[".bias"])  # ST-Adapter: norm weights do decay
    assert {n for g in no_bias if g["weight_decay"] for n in g["names"]} == {
        "encoder.1.weight",
        "adapter.weight",
        "head.weight",
    }


def test_longest_prefix_wins_and_prefixes_end_at_dots():
    groups = param_groups(tower(), 1.0, lr_mult={"encoder": 0.1, "encoder.1.bias": 0.5})
    rates = {name: g["lr"] for g in groups for name in g["names"]}
    assert rates["encoder.1.weight"] == 0.1
    assert rates["encoder.1.bias"] == 0.5
    with pytest.raises(ValueError, match="enc"):
        param_groups(tower(), 1.0, lr_mult={"enc": 0.1})


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="did you mean 'adapter'"):
        param_groups(tower(), 1.0, lr_mult={"adaptor": 1})
    with pytest.raises(ValueError, match=r"encoder\.0"):
        param_groups(tower(), 1.0, lr_mult={"encoder.0": 1})  # frozen
    with pytest.raises(ValueError, match="nothing trains"):
        param_groups(tower().requires_grad_(False), 1.0)
    with pytest.raises(ValueError, match="did you mean 'no_decay'"):
        TrainedGroups({}, {"no_decays": []})
    with pytest.raises(ValueError, match="did you mean 'weight_decay'"):
        TrainedGroups({"optimizer": {"type": torch.optim.AdamW, "lr": 1, "weigth_decay": 0}})(tower())
    with pytest.raises(ValueError, match="did you mean 'Adam'"):
        TrainedGroups({"optimizer": {"type": "AdamV", "lr": 1}})(tower())


def test_table_counts_weights():
    text = table(param_groups(tower(), 0.1, 0.05, no_decay=[".bias"]))
    assert "tensors" in text.splitlines()[0]
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["18", "8"]


def rates(schedule, steps):
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.step()
    return found


def optimizer(lr=2.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def test_cosine_equals_the_official_formula_over_fractional_epochs():
    found = rates(CosineSchedule(optimizer(7.5e-4), 12 * 7, 7, warmup_epochs=2), 12 * 7)

    def official(epoch, warm=2, last=12):
        return epoch / warm if epoch < warm else 0.5 + 0.5 * math.cos(math.pi * (epoch - warm) / (last - warm))

    assert found[0] == 0
    assert found == pytest.approx([7.5e-4 * official(step / 7) for step in range(12 * 7)])


def test_cosine_without_warm_up_equals_torch():
    ours = rates(CosineSchedule(optimizer(4e-4), 50, 9), 50)
    reference = optimizer(4e-4)
    theirs, scheduler = [], torch.optim.lr_scheduler.CosineAnnealingLR(reference, 50)
    for _ in range(50):
        theirs.append(reference.param_groups[0]["lr"])
        reference.step()
        scheduler.step()
    assert ours == pytest.approx(theirs)


def test_constant_final_and_resume():
    assert rates(ConstantSchedule(optimizer(), 10, 5, warmup_steps=2), 5) == [0, 1, 2, 2, 2]
    assert rates(CosineSchedule(optimizer(), 4, 5, final=0.5), 6)[-1] == pytest.approx(1.0)
    one = CosineSchedule(optimizer(), 10, 5)
    rates(one, 4)
    other = CosineSchedule(optimizer(), 10, 5)
    other.load_state_dict(one.state_dict())
    assert rates(one, 3) == rates(other, 3)
    with pytest.raises(ValueError, match="give one of them"):
        CosineSchedule(optimizer(), 10, 5, warmup_epochs=1, warmup_steps=1)
    with pytest.raises(ValueError, match="leaves nothing"):
        CosineSchedule(optimizer(), 10, 5, warmup_epochs=2)


def test_average_is_of_the_trained_part_and_is_what_best_evaluates(tmp_path):
    text = CONFIG.replace("default_hooks = dict(", "default_hooks = dict(ema=dict(type='ema', decay=0.5), ")
    runner = launch.train(launch.prepare(write_config(tmp_path, text), str(tmp_path / "w")))
    last = read(tmp_path / "w" / LAST)
    average, weights = last["ema_state_dict"], last["state_dict"]
    assert set(average) == {
        "head.weight",
        "head.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
    }
    assert not torch.equal(average["head.weight"], weights["head.weight"])
    assert torch.equal(runner.model.head.weight.detach(), weights["head.weight"])  # put back after validation
    assert last["meta"]["evaluated"] == "ema"
    from tests.engine.toy import ToyModel
    from xmodal.engine.checkpoint import load_weights

    model = ToyModel()
    load_weights(model, tmp_path / "w" / "best.pth")
    best = read(tmp_path / "w" / "best.pth")
    assert torch.equal(model.head.weight.detach(), best["ema_state_dict"]["head.weight"])


def test_average_formula():
    from xmodal.engine.ema import EMAHook

    class Fake:
        model, iter = nn.Linear(1, 1, bias=False), 0

    torch.nn.init.constant_(Fake.model.weight, 1.0)
    hook = EMAHook(decay=0.9)
    hook.before_train(Fake)
    torch.nn.init.constant_(Fake.model.weight, 2.0)
    hook.after_train_iter(Fake, 0)
    keep = (1 + 1) / (10 + 1)
    assert hook.average["weight"].item() == pytest.approx(keep * 1 + (1 - keep) * 2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        EMAHook(decay=1.0)
