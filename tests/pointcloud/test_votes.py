"""Votes for centers and what queries see, by hand."""

import math

import pytest
import torch

from pointcloud.votes import QueryPoints, VoteHead


def vote_case():
    """Points: in the first box, in none, just beyond its face (within the slack of 3 cm), in a padded box only."""
    xyz = torch.tensor([[[0.1, 0.2, 0.3], [5, 5, 5], [0.52, 0, 0], [9, 9, 9]]])
    boxes = torch.tensor([[[9.0, 9, 9, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 0]]])
    votes = torch.tensor([[[0.1, -0.2, 0.0], [7, 7, 7], [0.0, 0.0, 1.0], [8, 8, 8]]]).requires_grad_()
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0]]).requires_grad_()
    return xyz, votes, logits, boxes, torch.tensor([[False, True]])


def test_loss_of_votes_is_that_of_points_on_objects():
    xyz, votes, logits, boxes, mask = vote_case()
    found = VoteHead.loss(xyz, votes, logits, boxes, mask)
    assert found["loss_vote"].item() == pytest.approx((0.3 + 1.0) / 2)  # two points on the object, absolute distances
    softplus = lambda z: math.log(1 + math.exp(z))  # noqa: E731
    want = (softplus(-2.0) + softplus(-1.0) + softplus(-0.5) + softplus(3.0)) / 4
    assert found["loss_on_object"].item() == pytest.approx(want)
    found["loss_vote"].backward()
    assert votes.grad[0].abs().sum(-1).gt(0).tolist() == [True, False, True, False]


def test_loss_of_scenes_without_objects():
    xyz, votes, logits, boxes, mask = vote_case()
    for n in (2, 0):
        found = VoteHead.loss(xyz, votes, logits, boxes[:, :n], mask[:, :n] & False)
        assert found["loss_vote"].item() == 0
        want = sum(math.log(1 + math.exp(z)) for z in logits[0].tolist()) / 4
        assert found["loss_on_object"].item() == pytest.approx(want)


def test_queries_are_far_votes_of_the_likeliest_points_and_carry_no_gradient():
    votes = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [100, 0, 0], [2, 0, 0], [50, 0, 0]]]).requires_grad_()
    logits = torch.tensor([[1.0, 5.0, -4.0, 3.0, 0.0]]).requires_grad_()
    queries = VoteHead.queries(votes, logits, 2)
    # of the four likeliest (at 1, 2, 0, 50) the likeliest and the one farthest from it
    assert queries[0, :, 0].tolist() == [1, 50]
    assert not queries.requires_grad


def test_votes_are_offsets_from_the_points():
    head = VoteHead(4, 8)
    with torch.no_grad():
        head.mlp[-1].weight.zero_()
        head.mlp[-1].bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.7]))
    xyz = torch.tensor([[[1.0, 2, 3]]])
    votes, logits = head(xyz, torch.randn(1, 1, 4))
    assert votes[0, 0].tolist() == pytest.approx([1.1, 2.2, 3.3])
    assert logits.item() == pytest.approx(0.7)


def test_queries_see_offsets_and_features_within_the_ball():
    look = QueryPoints(8, feat_dim=1, radius=1.0, num_points=3, width=4).eval()
    seen = []
    look.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    coord = torch.tensor([[[10.0, 0, 0], [10.5, 0, 0], [12, 0, 0], [10, 0.25, 0]]])
    feat = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    look(torch.tensor([[[10.25, 0, 0]]]), coord, feat)
    assert seen[0][0, 0].tolist() == [[-0.25, 0, 0, 1], [0.25, 0, 0, 2], [-0.25, 0.25, 0, 4]]
    look(torch.tensor([[[10.25, 0, 0]]]), coord, feat, torch.tensor([1]))
    assert seen[1][0, 0].tolist() == [[-0.25, 0, 0, 1]] * 3  # behind the length there is nothing
