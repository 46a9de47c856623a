"""What parity does not show of V-DETR: losses fall, predictions come out, wrong options are refused."""

import pytest
import torch

from pointcloud.vdetr import vdetr3d
from pointcloud.vertex_criterion import VertexCriterion, repeated


def scene(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    coord = torch.rand(2, 256, 3, generator=generator) * 3
    boxes = torch.tensor([[[1.0, 1, 1, 1, 1, 1, 0], [2, 2, 1, 0.5, 1, 1, 0.4]], [[1, 2, 1, 1, 1, 2, 0], [0] * 7]])
    return coord, boxes, torch.tensor([[0, 2], [1, 0]]), torch.tensor([[True, True], [True, False]])


def network():
    torch.manual_seed(0)
    small = dict(dim=16, num_heads=2, depth=2, ffn_dim=32, num_points=32)
    return vdetr3d(
        None, 3, num_angle_bins=4, backbone=small, min_score=0.0,
        decoder=dict(dim=16, num_heads=2, ffn_dim=16, depth=2, num_queries=8, width=8, own_axes=True),
    )  # fmt: skip


def test_a_few_steps_fit_two_scenes_and_both_predict():
    model = network().train()
    coord, boxes, label, mask = scene()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = model.loss(boxes, label, mask, coord)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    model.eval()
    with torch.no_grad():
        found = model.predict(coord)
    assert len(found) == 2
    assert all(f["boxes"].shape[1] == 7 and len(f["boxes"]) == len(f["scores"]) for f in found)


def test_scenes_without_boxes_have_a_loss():
    coord, boxes, label, mask = scene()
    loss = network().loss(boxes[:, :0], label[:, :0], mask[:, :0], coord)["loss"]
    assert torch.isfinite(loss)


def test_true_boxes_are_repeated_in_turns_and_padding_goes_behind():
    targets = {"boxes": torch.arange(3.0).view(1, 3, 1), "box_mask": torch.tensor([[True, False, True]])}
    found = repeated(targets, 2)
    assert found["boxes"][0, :4, 0].tolist() == [0, 2, 0, 2]
    assert found["box_mask"].tolist() == [[True] * 4 + [False] * 2]


def test_a_point_belongs_to_the_smallest_box_around_it():
    boxes = torch.tensor([[[0.0, 0, 0, 4, 4, 4, 0], [0, 0, 0, 1, 1, 1, 0]]])
    targets = {"boxes": boxes, "box_label": torch.tensor([[1, 0]]), "box_mask": torch.ones(1, 2)}
    points = torch.tensor([[[0.2, 0.2, 0.2], [1.5, 0, 0], [3.0, 0, 0]]])
    assert VertexCriterion(2).point_labels(points, targets)[0].tolist() == [[1, 0], [0, 1], [0, 0]]


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="leave out votes"):
        vdetr3d(None, 3, votes=True)
    with pytest.raises(ValueError, match="content 'none': choose random"):
        vdetr3d(None, 3, decoder=dict(content="none"))
    with pytest.raises(ValueError, match="no cost is called"):
        VertexCriterion(3, costs={"area": 1.0})


def test_its_loss_is_finite_under_autocast():
    coord, boxes, label, mask = scene()
    with torch.autocast("cpu", torch.bfloat16):
        loss = network().loss(boxes, label, mask, coord)["loss"]
    assert torch.isfinite(loss)
