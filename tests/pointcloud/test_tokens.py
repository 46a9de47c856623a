"""Tokenizer, positions and task tokens against their formulas in float64, and what the frozen blocks receive."""

import math

import numpy as np
import pytest
import torch

from pointcloud.detection import EPCLBackbone
from pointcloud.epcl import EPCL, EPCLDense
from pointcloud.task_token import PositionMLP, TaskTokens, unit_ball
from pointcloud.tokenizer import MiniPointNet, PointTokenizer
from tests.pointcloud.towers import small_tower
from xmodal.encoders.frozen import freeze


def refill(module, seed=0):
    """Every weight and running number drawn anew, so that nothing is an identity."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                drawn = torch.randn(value.shape, generator=g, dtype=torch.float64) * 0.4
                value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return module.eval()


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_mini_pointnet_is_its_formula():
    """Conv-BN-ReLU-Conv, maximum g; [g, f] (global first) Conv-BN-ReLU-Conv, maximum."""
    net = refill(MiniPointNet(4, 6, width=3).double())
    s = {k: v.numpy() for k, v in net.state_dict().items()}
    groups = np.random.default_rng(0).normal(size=(2, 3, 5, 4))

    def conv(x, name):
        return x @ s[f"{name}.weight"][..., 0].T + s[f"{name}.bias"]

    def half(x, name):
        x = conv(x, f"{name}.0")
        mean, var = s[f"{name}.1.running_mean"], s[f"{name}.1.running_var"]
        x = (x - mean) / np.sqrt(var + 1e-5) * s[f"{name}.1.weight"] + s[f"{name}.1.bias"]
        return conv(np.maximum(x, 0), f"{name}.3")

    f = half(groups, "first_conv")
    g = f.max(2, keepdims=True).repeat(5, axis=2)
    want = half(np.concatenate([g, f], axis=3), "second_conv").max(2)
    assert np.allclose(net(torch.from_numpy(groups)).detach(), want, atol=1e-10)


def groups_of(tokenizer, *inputs):
    """What the small PointNet is given."""
    seen = []
    tokenizer.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    _, centers = tokenizer(*inputs)
    return seen[0], centers


COORD = torch.tensor([[[1.0, 0, 0], [3, 0, 0], [9, 0, 0], [9, 4, 0], [1, 0, 2]]])
FEAT = torch.arange(5.0)[None, :, None]


def test_members_are_offsets_from_their_center_in_units_of_the_scale():
    groups, centers = groups_of(PointTokenizer(2, 2, 8, feat_dim=1, scale=2.0, width=4), COORD, FEAT)
    assert centers.tolist() == [[[1, 0, 0], [9, 4, 0]]]
    # the nearest of the first center are itself and (3, 0, 0), of the other itself and (9, 0, 0)
    assert groups.tolist() == [[[[0, 0, 0, 0], [1, 0, 0, 1]], [[0, 0, 0, 3], [0, -2, 0, 2]]]]
    groups, _ = groups_of(PointTokenizer(2, 2, 8, feat_dim=1, use_coord=False, width=4), COORD, FEAT)
    assert groups.tolist() == [[[[0], [1]], [[3], [2]]]]


def test_groups_end_at_the_cloud_and_may_leave_out_the_origin():
    groups, centers = groups_of(PointTokenizer(2, 2, 8, width=4), COORD, None, torch.tensor([2]))
    assert centers.tolist() == [[[1, 0, 0], [3, 0, 0]]]
    assert groups[0, 0].tolist() == [[0, 0, 0], [2, 0, 0]]
    near = torch.tensor([[[1.0, 0, 0], [0.01, 0, 0], [0.5, 0, 0]]])
    assert groups_of(PointTokenizer(2, 1, 8, width=4), near)[1][0, 1, 0] == near[0, 1, 0]
    skipped = groups_of(PointTokenizer(2, 1, 8, skip_near_origin=True, width=4), near)[1]
    assert skipped[0, :, 0].tolist() == [1, 0.5]


def test_unit_balls_are_those_of_each_cloud():
    """By hand: means 1 and 0; the farthest points are 2 and 0.5 away."""
    points = torch.zeros(2, 3, 3)
    points[0, :, 0] = torch.tensor([0.0, 0, 3])
    points[1, :, 1] = torch.tensor([-0.5, 0, 0.5])
    found = unit_ball(points)
    assert found[0, :, 0].tolist() == [-0.5, -0.5, 1]
    assert found[1, :, 1].tolist() == [-1, 0, 1]
    assert unit_ball(torch.ones(1, 1, 3)).tolist() == [[[0, 0, 0]]]


def test_task_tokens_and_positions_are_their_formulas():
    tokens, position = refill(TaskTokens(3, 4).double()), refill(PositionMLP(4, 5).double(), 1)
    s = {k: v.numpy() for k, v in tokens.state_dict().items()}
    hidden = gelu(s["embedding.weight"] @ s["trans.0.weight"].T + s["trans.0.bias"])
    want = hidden @ s["trans.2.weight"].T + s["trans.2.bias"]
    assert np.allclose(tokens(2).detach(), np.stack([want, want]), atol=1e-10)
    assert TaskTokens(0, 4)(2) is None
    s = {k: v.numpy() for k, v in position.state_dict().items()}
    xyz = np.random.default_rng(0).normal(size=(2, 3, 3))
    want = gelu(xyz @ s["0.weight"].T + s["0.bias"]) @ s["2.weight"].T + s["2.bias"]
    assert np.allclose(position(torch.from_numpy(xyz)).detach(), want, atol=1e-10)


def blocks_of(tower):
    """Record what the blocks receive, and hand it on unchanged."""
    seen = []
    tower.forward_blocks = lambda x, grid: seen.append(x) or x
    return seen


@pytest.mark.parametrize("pre_norm", [False, True])
def test_blocks_receive_class_token_points_with_positions_and_task_tokens(pre_norm):
    tower = refill(freeze(small_tower()))
    epcl = refill(EPCL(tower, 3, pre_norm=pre_norm))
    seen = blocks_of(tower)
    tokens, position = torch.randn(2, 5, 32), torch.randn(2, 5, 3)
    out = epcl(tokens, position)
    front = (tower.cls_token + tower.pos_embed[:, :1]).expand(2, -1, -1)
    front = torch.cat([front, tokens + epcl.pos_embed(position)], dim=1)
    if pre_norm:  # CLIP's norm in front of the blocks is for its own kinds of tokens, not for task tokens
        norm = tower.norm_pre
        front = torch.nn.functional.layer_norm(front, (32,), norm.weight, norm.bias, norm.eps)
    want = torch.cat([front, epcl.te_encoder(2)], dim=1)
    assert torch.allclose(seen[0], want, atol=1e-5)
    assert torch.equal(epcl.points_of(out, 5), out[:, 1:6])


def test_prompts_that_adapters_put_behind_are_not_handed_on():
    tower = refill(freeze(small_tower()))
    epcl = EPCL(tower, 3)
    tower.forward_blocks = lambda x, grid: torch.cat([x, torch.full((2, 4, 32), 99.0)], dim=1)
    out = epcl(torch.randn(2, 5, 32), torch.randn(2, 5, 3))
    assert out.shape == (2, 1 + 5 + 3, 32)
    assert out.max() < 99


def test_another_position_of_the_class_token():
    tower = refill(freeze(small_tower()))
    epcl = EPCL(tower, 0, prefix_position=torch.arange(32.0))
    seen = blocks_of(tower)
    epcl(torch.zeros(1, 2, 32), torch.zeros(1, 2, 3))
    assert torch.allclose(seen[0][:, :1], tower.cls_token + torch.arange(32.0))


@pytest.mark.parametrize("normalize", [False, True])
def test_dense_positions_and_what_is_carried_back(normalize):
    """Positions in meters, normalized or not; tokens come back by the three nearest centers, on top of the features."""
    tower = refill(freeze(small_tower()))
    model = refill(EPCLDense(tower, 2, 4, 3, num_task_tokens=1, voxel_size=0.5, normalize=normalize))
    positions = []
    model.epcl.pos_embed.register_forward_pre_hook(lambda module, args: positions.append(args[0]))
    coord, feat = torch.rand(1, 9, 3) * 20, torch.randn(1, 9, 2)
    tokens, centers = model.tokenizer(coord, feat)
    out, given = model(coord, feat)
    assert torch.equal(given, centers)
    meters = centers * 0.5
    middle = meters - meters.mean(1, keepdim=True)
    assert torch.allclose(positions[0], middle / middle.norm(dim=-1).max() if normalize else meters, atol=1e-6)
    with torch.no_grad():
        points = model.epcl(tokens, positions[0])[:, 1:5]
    weight = 1 / (torch.cdist(coord, centers).double() ** 2 + 1e-8)  # (1, 9, 4)
    weight = weight * (weight >= weight.topk(3).values[..., -1:])
    carried = (weight / weight.sum(-1, keepdim=True)) @ points.double()
    want = feat + model.upsampling(carried.float().transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(out, want, atol=1e-4)


@pytest.mark.parametrize("keep", [False, True])
def test_detection_tokens_are_centered_and_handed_on_beside_their_origin(keep):
    tower = refill(freeze(small_tower()))
    model = refill(EPCLBackbone(tower, 2, 4, 3, width=8, keep_tokens=keep))
    assert model.tokenizer.scale == 0.2
    positions = []
    model.epcl.pos_embed.register_forward_pre_hook(lambda module, args: positions.append(args[0]))
    coord = torch.rand(2, 9, 3) * 5
    tokens, centers = model.tokenizer(coord)
    xyz, features = model(coord)
    assert torch.equal(xyz, centers)
    assert torch.allclose(positions[0], centers - centers.mean(1, keepdim=True))
    assert features.shape[-1] == model.out_dim == 32 * (1 + keep)
    points = model.epcl(tokens, positions[0])[:, 1:5]
    want = torch.nn.functional.layer_norm(points, (32,), model.norm.weight, model.norm.bias)
    assert torch.allclose(features[..., :32], want, atol=1e-5)
    if keep:
        assert torch.equal(features[..., 32:], tokens)
