"""What is frozen: no gradient, evaluation mode, counts, and hashes that see names, shapes and values."""

import copy

import pytest
import torch
from torch import nn

from xmodal.encoders.frozen import count, fingerprint, freeze, hold_frozen_in, keep_frozen_in_eval
from xmodal.encoders.parts import DropPath
from xmodal.encoders.sites import Edits, Linear


class Owner(nn.Module):
    """A frozen layer with something placed at it, stochastic depth, a norm with statistics, and one that trains."""

    def __init__(self):
        super().__init__()
        self.layer = Linear(3, 3)
        self.drop, self.depth = nn.Dropout(0.5), DropPath(0.5)
        self.frozen, self.trained = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        freeze(self)
        self.trained.requires_grad_(True)
        self.layer.edits["own"] = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))


def test_frozen_parts_go_to_evaluation_mode_and_what_was_placed_or_trains_does_not():
    owner = Owner().train()
    keep_frozen_in_eval(owner)
    modes = {name: module.training for name, module in owner.named_modules() if name}
    assert modes == {
        "layer": False,
        "layer.edits": True,
        "layer.edits.own": True,
        "layer.edits.own.0": True,
        "layer.edits.own.1": True,
        "drop": False,
        "depth": True,
        "frozen": False,
        "trained": True,
    }
    owner = Owner().eval()
    keep_frozen_in_eval(owner)
    assert not any(module.training for module in owner.modules())


def test_an_all_frozen_tower_keeps_stochastic_depth_and_placed_modules_as_they_are():
    tower = nn.Sequential(Linear(3, 3), DropPath(0.5), nn.Dropout(0.5))
    tower[0].edits["own"] = nn.Dropout(0.5)  # has no weights: all of the tower counts as frozen
    freeze(tower).train()
    keep_frozen_in_eval(tower)
    assert [m.training for m in tower] == [False, True, False]
    assert tower[0].edits["own"].training


def test_freezing_stops_gradients_and_sets_evaluation_mode():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    assert freeze(module) is module
    assert not module[1].training
    assert not any(p.requires_grad for p in module.parameters())


def test_counting_by_hand():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4, bias=False))
    module.append(module[0])  # shared weights count once
    module[1].requires_grad_(False)
    assert count(module) == 6 + 3 + 12
    assert count(module, trained_only=True) == 9


def test_the_hash_sees_names_shapes_values_and_buffers():
    module = nn.BatchNorm1d(4)
    same = fingerprint(copy.deepcopy(module))
    assert fingerprint(module) == same
    assert fingerprint(nn.Sequential(module)) != same  # other names
    module.running_mean[2] += 1e-6
    assert fingerprint(module) != same
    flat, square = nn.ParameterDict({"a": torch.ones(4)}), nn.ParameterDict({"a": torch.ones(2, 2)})
    assert fingerprint(flat) != fingerprint(square)
    renamed = nn.ParameterDict({"b": torch.ones(4)})
    assert fingerprint(flat) != fingerprint(renamed)
    assert fingerprint(flat) == fingerprint(nn.ParameterDict({"a": torch.ones(4, dtype=torch.float64)}))
    assert fingerprint(nn.Linear(2, 2, device="meta")) == "meta"


def test_only_frozen_layers_are_held_in_half_and_edits_see_float32():
    blocks = nn.ModuleList([Linear(3, 3), Linear(3, 3), Linear(3, 3, bias=False)])
    freeze(blocks)
    blocks[1].requires_grad_(True)
    blocks[2].edits["own"] = seen = Seen()
    hold_frozen_in(blocks, "bf16")
    assert [b.weight.dtype for b in blocks] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert blocks[0].bias.dtype == torch.bfloat16
    out = blocks[2](torch.randn(2, 3))
    assert seen.dtypes == (torch.float32, torch.float32)
    assert out.dtype == torch.float32
    assert [isinstance(b.edits, Edits) and b.edits.widen for b in blocks] == [False, False, True]
    with pytest.raises(ValueError, match="choose bf16"):
        hold_frozen_in(blocks, "fp8")
    with pytest.raises(ValueError, match="no frozen linear layer"):
        hold_frozen_in(nn.ModuleList([Linear(3, 3)]), "bf16")


class Seen(nn.Module):
    def forward(self, y, x, grid=None):
        self.dtypes = y.dtype, x.dtype
        return y
