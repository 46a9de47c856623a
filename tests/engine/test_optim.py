"""Groups, schedules, clipping."""

import math

import pytest
import torch
from torch import nn

from xmodal.engine.optim import OptimWrapper, TrainedGroups, param_groups, table
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
    with pytest.raises(ValueError, match=r"10 steps, and the run has 10: set param_scheduler.warmup_epochs=0.2 \(a"):
        CosineSchedule(optimizer(), 10, 5, warmup_epochs=2)


def test_a_final_rate_by_the_formula():
    found = rates(CosineSchedule(optimizer(2.0), 10, 5, warmup_steps=2, final=0.1), 12)
    want = [2.0 * (0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * step / 8))) for step in range(8)]
    assert found == pytest.approx([0, 1, *want, 0.2, 0.2])


def test_every_group_keeps_its_own_base_rate():
    sgd = torch.optim.SGD([dict(params=[nn.Parameter(torch.zeros(1))], lr=rate) for rate in (2.0, 0.1)])
    schedule = ConstantSchedule(sgd, 10, 5, warmup_steps=4)
    schedule.step()
    assert [g["lr"] for g in sgd.param_groups] == pytest.approx([0.5, 0.025])


class MyRMSNorm(nn.Module):
    """A norm of some package: known by its name."""

    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))


def test_every_kind_of_norm_can_go_without_decay():
    norms = dict(a=nn.LayerNorm(3), b=nn.BatchNorm2d(3), c=nn.GroupNorm(1, 3), d=nn.SyncBatchNorm(3), e=MyRMSNorm(3))
    model = nn.ModuleDict({**norms, "fc": nn.Linear(3, 3)})
    groups = param_groups(model, 0.1, 0.05, no_decay=["norm"])
    assert {n for g in groups if g["weight_decay"] for n in g["names"]} == {"fc.weight", "fc.bias"}


def test_the_optimizer_uses_the_rates_of_its_groups():
    given = {"optimizer": {"type": torch.optim.AdamW, "lr": 0.1, "weight_decay": 0.05}}
    wrapper = TrainedGroups(given, dict(no_decay=[".bias"], lr_mult={"head": 10}))(tower())
    found = {n: (g["lr"], g["weight_decay"]) for g in wrapper.optimizer.param_groups for n in g["names"]}
    assert found["head.weight"] == (pytest.approx(1.0), 0.05)
    assert found["head.bias"] == (pytest.approx(1.0), 0.0)
    assert found["adapter.weight"] == (0.1, 0.05)


def test_gradients_are_clipped_to_the_norm():
    weight = nn.Parameter(torch.zeros(2))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=1.0), clip_grad=dict(max_norm=1.0))
    wrapper.update_params((weight * torch.tensor([3.0, 4.0])).sum())
    assert wrapper.grad_norm.item() == pytest.approx(5)
    assert weight.tolist() == pytest.approx([-0.6, -0.8], abs=1e-5)
