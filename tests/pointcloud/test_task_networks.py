"""Losses and predictions of the task networks, by hand from what the layers in front of them give."""

import numpy as np
import pytest
import torch

from pointcloud.box_decoder import continuous_angle, decode
from pointcloud.classification import EPCLClassifier, redrawn
from pointcloud.detection import Detector, best_class
from pointcloud.detr_encoder import DETREncoder, SetAbstraction
from pointcloud.model import CloudModel, redraw
from pointcloud.segmentation import EPCLSegmenter
from tests.pointcloud.test_tokens import refill
from tests.pointcloud.towers import small_tower
from xmodal.encoders.frozen import freeze

SEGMENTER = dict(planes=(16, 32), blocks=(2, 2), strides=(1, 4), num_neighbors=(4, 8))


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


# ---------------------------------------------------------------- classification


def test_embedding_is_made_of_the_class_token_and_the_strongest_of_the_others():
    """Task tokens count among the strongest, the class token does not; the norm comes before the maximum."""
    tower = refill(freeze(small_tower()))
    model = refill(EPCLClassifier(tower, 4, 8, 6, num_task_tokens=2, width=8))
    stream = torch.randn(2, 1 + 8 + 2, 32)
    stream[0, 0], stream[0, 9] = stream[0, 0] * 50, stream[0, 9] * 3
    model.epcl.forward = lambda tokens, centers: stream
    seen = []
    model.proj2emb.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.embed(torch.randn(2, 20, 3))
    norm = lambda x, layer: torch.nn.functional.layer_norm(x, (32,), layer.weight, layer.bias)  # noqa: E731
    feature = norm(stream[:, 0], tower.norm) @ tower.proj.weight.T
    strongest = torch.stack([norm(stream[:, i], model.norm) for i in range(1, 11)]).amax(0)
    assert torch.allclose(seen[0], torch.cat([feature, strongest], dim=1), atol=1e-5)


def test_losses_of_classification():
    """The second loss compares the embedding as it is with the texts as they are: no norm, no temperature."""
    text = torch.randn(4, 16)
    model = EPCLClassifier(freeze(small_tower()), 4, 8, 6, text=text, text_weight=0.3, label_smoothing=0.2, width=8)
    logits, embedding, label = torch.randn(5, 4) * 3, torch.randn(5, 16), torch.tensor([0, 3, 1, 1, 2])
    model.forward = lambda coord: (logits, embedding)
    found = model.loss(label, coord=None)
    log, rows = log_softmax(logits), np.arange(5)
    want = -(0.8 * log[rows, label] + 0.2 * log.mean(1)).mean()
    assert found["loss_cls"].item() == pytest.approx(want, rel=1e-5)
    second = -log_softmax(embedding @ text.T)[rows, label].mean()
    assert found["loss_text"].item() == pytest.approx(0.3 * second, rel=1e-5)
    assert found["top1"].item() == pytest.approx(20 * int((logits.argmax(1) == label).sum()))


def test_scores_are_the_softmax_of_the_mean_of_the_votes_logits():
    model = EPCLClassifier(freeze(small_tower()), 3, 8, 6, votes=2, width=8)
    given = iter([torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, -2.0, 0.0]])])
    model.forward = lambda **inputs: (next(given), None)
    found = model.predict(coord=torch.randn(1, 9, 3))
    assert found[0]["scores"].tolist() == pytest.approx(np.exp(log_softmax([2.0, 0.0, 0.0])).tolist())
    single = EPCLClassifier(freeze(small_tower()), 3, 8, 6, width=8)
    single.forward = lambda **inputs: (torch.tensor([[1.0, 2.0, 0.0]]), None)
    found = single.predict(coord=torch.randn(1, 9, 3))
    assert found[0]["scores"].tolist() == pytest.approx(np.exp(log_softmax([1.0, 2.0, 0.0])).tolist())
    assert found[0]["votes"] == 1


def test_votes_draw_points_scales_and_shifts_as_in_training():
    coord = torch.rand(3, 50, 3) + 1
    feat = coord * 7
    factors, shifts = [], []
    for seed in range(200):
        out = redrawn(seed, 20, coord, feat)
        points, kept = out["coord"].double(), out["feat"].double() / 7  # the features tell which points they are
        assert points.shape == (3, 20, 3)
        assert len(kept[0].unique(dim=0)) == 20
        assert torch.allclose(kept, coord.double()[:, [(coord[0] - k).abs().sum(1).argmin() for k in kept[0]]])
        factor = (points[:, 0] - points[:, 1]) / (kept[:, 0] - kept[:, 1])
        factors.append(factor)
        shifts.append(points[:, 0] - factor * kept[:, 0])
    factors, shifts = torch.stack(factors), torch.stack(shifts)  # (seeds, clouds, axes)
    for values, low, high in ((factors, 2 / 3, 3 / 2), (shifts, -0.2, 0.2)):
        assert low - 1e-3 < values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() < high + 1e-3
        assert np.abs(np.corrcoef(values.flatten(1).T) - np.eye(9)).max() < 0.3  # every cloud and axis has its own


# ---------------------------------------------------------------- segmentation


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5]])
def test_a_batch_in_which_no_point_counts_has_loss_0(weight):
    """The mean of nothing would be NaN, and so would be every weight after the step."""
    model = refill(EPCLSegmenter(freeze(small_tower()), 3, in_dim=3, class_weight=weight, **SEGMENTER))
    found = model.loss(torch.full((2, 64), -1), torch.rand(2, 64, 3), lengths=torch.tensor([64, 40]))
    assert {k: v.item() for k, v in found.items()} == {"loss_segment": 0, "oa": 0}
    found["loss_segment"].backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("ignore", [None, 0, 255])
def test_loss_of_segmentation_leaves_out_ignored_and_padded_points(ignore):
    weight = [1.0, 2.0, 0.5]
    options = {} if ignore is None else {"ignore_label": ignore}
    model = EPCLSegmenter(None, 3, in_dim=3, class_weight=weight, **SEGMENTER, **options)
    skip = -1 if ignore is None else ignore
    segment = torch.tensor([[1, 2, skip, 1, 2], [2, skip, 1, 1, 1]])
    logits = torch.randn(5 + 2, 3) * 2
    model.forward = lambda coord, feat, sizes: logits
    found = model.loss(segment, torch.randn(2, 5, 3), lengths=torch.tensor([5, 2]))
    label = np.array([1, 2, skip, 1, 2, 2, skip])
    keep = label != skip
    log, w = log_softmax(logits)[np.arange(7), label.clip(0, 2)], np.array(weight)[label.clip(0, 2)]
    want = -(w * log)[keep].sum() / w[keep].sum()
    assert found["loss_segment"].item() == pytest.approx(want, rel=1e-5)
    right = (logits.argmax(1).numpy() == label)[keep].mean()
    assert found["oa"].item() == pytest.approx(100 * right)


def test_bottleneck_adds_to_its_input_and_sees_each_cloud_in_its_own_unit_ball():
    model = refill(EPCLSegmenter(freeze(small_tower()), 3, in_dim=3, **SEGMENTER))
    seen = []
    model.epcl.forward = lambda tokens, position: seen.append(position) or torch.cat([tokens[:, :1], tokens], dim=1)
    coord = torch.zeros(6, 3)
    coord[:3, 0], coord[3:, 0] = torch.tensor([0.0, 0, 3]), torch.tensor([100.0, 110, 120])
    x = torch.randn(6, 32)
    out = model.bottleneck(coord, x, 2)
    assert seen[0][0, :, 0].tolist() == pytest.approx([-0.5, -0.5, 1])
    assert seen[0][1, :, 0].tolist() == pytest.approx([-1, 0, 1])
    assert torch.allclose(out, x + model.output_layer(model.input_layer(x)), atol=1e-5)


def test_scenes_are_voted_for_in_parts_when_asked():
    model = EPCLSegmenter(None, 2, in_dim=3, **SEGMENTER, eval_voxel=0.5, eval_points=10, eval_parts=1)
    sizes = []
    model.forward = lambda coord, feat, size: sizes.append(size) or torch.ones(len(coord), 2)
    coord = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0.9, 0, 0]]])
    model.predict(coord)
    assert sizes == [[2]]  # one point of each voxel, one part
    model.eval_parts = None
    model.predict(coord)
    assert sizes[1:] == [[2]] * 3  # as many parts as the fullest voxel has points
    model.eval_voxel = None
    model.predict(coord)
    assert sizes[4:] == [[4]]


# ---------------------------------------------------------------- detection


def raw_heads(bins=4):
    g = torch.Generator().manual_seed(0)
    widths = {"center_head": 3, "size_head": 3, "angle_cls_head": bins, "angle_residual_head": bins, "sem_cls_head": 4}
    return {k: torch.randn(2, 5, w, generator=g) * 2 for k, w in widths.items()}


@pytest.mark.parametrize("log_size", [False, True])
def test_boxes_of_what_the_heads_say(log_size):
    raw, query = raw_heads(), torch.rand(2, 5, 3)
    low, high = torch.tensor([[0.0, 0, 0], [1, 1, 1]]), torch.tensor([[4.0, 5, 0.01], [3, 9, 4]])
    found = decode(raw, query, low, high, log_size)
    sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))  # noqa: E731
    extent = (high - low).numpy()[:, None]
    center = query.numpy() + sigmoid(raw["center_head"]) - 0.5  # half a meter at most
    size = sigmoid(raw["size_head"]) * np.maximum(extent, 0.1)  # of the scene, which is at least 10 cm
    if log_size:
        size = np.exp(np.clip(raw["size_head"].numpy(), -4, 3))
    assert np.allclose(found["boxes"][..., :3], center, atol=1e-5)
    assert np.allclose(found["boxes"][..., 3:6], size, atol=1e-4)
    assert np.allclose(found["size_normalized"] * np.maximum(extent, 0.1), size, atol=1e-4)
    assert np.allclose(found["center_normalized"] * extent + low.numpy()[:, None], center, atol=1e-4)
    probs = np.exp(log_softmax(raw["sem_cls_head"]))
    assert np.allclose(found["class_probs"], probs[..., :3], atol=1e-6)  # the last is the background
    assert np.allclose(found["objectness"], 1 - probs[..., 3], atol=1e-6)
    best = raw["angle_cls_head"].argmax(-1)
    residual = np.take_along_axis(raw["angle_residual_head"].numpy(), best.numpy()[..., None], -1)[..., 0]
    angle = best.numpy() * np.pi / 2 + residual * np.pi / 4  # four bins; residuals in half bins
    angle = np.where(angle > np.pi, angle - 2 * np.pi, angle)
    assert np.allclose(found["boxes"][..., 6], angle, atol=1e-5)
    assert np.allclose(found["angle_raw"], raw["angle_residual_head"])


def test_one_bin_has_no_angle():
    assert continuous_angle(torch.randn(2, 3, 1), torch.randn(2, 3, 1)).tolist() == [[0, 0, 0]] * 2


class Points(torch.nn.Module):
    """A backbone that hands the points on, with one feature each."""

    out_dim = 8

    def forward(self, coord, feat=None, lengths=None):
        return coord, torch.ones(*coord.shape[:2], 8)


def test_extent_of_padded_scenes():
    coord = torch.tensor([[[1.0, 2, 3], [4, 0, 3], [0, 9, -9]], [[5, 5, 5], [6, 6, 6], [7, 7, 7]]])
    low, high = Detector.extent(coord, torch.tensor([2, 3]))
    assert low.tolist() == [[1, 0, 3], [5, 5, 5]]
    assert high.tolist() == [[4, 2, 3], [7, 7, 7]]
    low, high = Detector.extent(coord, None)
    assert low[0].tolist() == [0, 0, -9]
    assert high[0].tolist() == [4, 9, 3]


def test_predictions_are_the_last_layers_boxes_that_hold_points_and_are_like_objects():
    model = Detector(Points(), 2, decoder=dict(dim=8, num_heads=2, ffn_dim=8, depth=1, num_queries=2))
    box = lambda x: [float(x), 0, 0, 1, 1, 1, 0]  # noqa: E731
    last = {
        "boxes": torch.tensor([[box(0), box(0.1), box(5), box(9)]]),
        "class_probs": torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5]]]),
        "objectness": torch.tensor([[0.5, 0.6, 0.04, 0.9]]),
    }
    other = {k: v.flip(1) * 0.5 for k, v in last.items()}
    model.forward = lambda *inputs: [other, last]
    points = torch.cat([torch.zeros(5, 3), torch.tensor([[5.0, 0, 0]] * 5), torch.tensor([[9.0, 0, 0]] * 5)])[None]
    show = lambda **o: [  # noqa: E731
        sorted({round(float(x), 1) for x in f["boxes"][:, 0]}) for f in model.predict(points, **o)
    ]
    assert show() == [[0.1, 9]]  # the first is suppressed, the third is too little like an object
    assert show(lengths=torch.tensor([14])) == [[0.1]]  # the last box holds but four points of the scene
    model.min_points = 4
    assert show(lengths=torch.tensor([14])) == [[0.1, 9]]
    model.min_score = 0.03
    assert show() == [[0.1, 5, 9]]
    model.nms_iou = None
    assert show() == [[0, 0.1, 5, 9]]


def test_best_class_comes_best_first():
    boxes = np.arange(21.0).reshape(3, 7)
    found = best_class({"boxes": boxes, "box_label": np.array([4, 5, 6]), "scores": np.array([0.31, 0.9, 0.29])})
    assert found["box_label"].tolist() == [5, 4]
    assert found["scores"].tolist() == [0.9, 0.31]


def test_vote_losses_are_part_of_the_loss_and_votes_place_the_queries():
    model = Detector(Points(), 2, votes=True, decoder=dict(dim=8, num_heads=2, ffn_dim=8, depth=2, num_queries=3))
    coord = torch.randn(1, 12, 3)
    votes, logits = model.votes(*model.backbone(coord))
    layers = model.run(coord, None, None)[0]
    want = model.votes.queries(votes, logits, 3)
    assert all(torch.equal(layer["query"], want) for layer in layers)
    boxes = torch.cat([coord[:, :2], torch.ones(1, 2, 3), torch.zeros(1, 2, 1)], dim=-1)
    given = dict(boxes=boxes, box_label=torch.tensor([[0, 1]]), box_mask=torch.tensor([[True, True]]))
    found = model.eval().loss(**given, coord=coord)
    extra = model.votes.loss(*model.run(coord, None, None)[1], boxes, given["box_mask"])
    assert {k: v.item() for k, v in found.items() if k in extra} == {k: v.item() for k, v in extra.items()}
    assert set(extra) == {"loss_vote", "loss_on_object"}


def test_set_abstraction_by_hand():
    """Offsets in units of the radius, then features; short balls repeat their first hit; a maximum at the end."""
    model = SetAbstraction(2, 2.0, 3, (1, 5))
    seen = []
    model.mlp.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    coord = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [9, 0, 0], [0, 1.5, 0]]])
    kept, out = model(coord, torch.arange(4.0)[None, :, None])
    assert kept[0].tolist() == [[0, 0, 0], [9, 0, 0]]
    first = [[0, 0, 0, 0], [0.5, 0, 0, 1], [0, 0.75, 0, 3]]
    assert seen[0][0][0].tolist() == [first, [[0, 0, 0, 2]] * 3]
    assert torch.equal(out[0], seen[0][1][0].max(1).values)


def test_encoder_of_3detr_is_the_released_one():
    plain, masked = DETREncoder(), DETREncoder(masked=True)
    assert masked.radii == pytest.approx((0.4**2, 0.8**2, 1.2**2))
    assert plain.radii == (None,) * 3
    for model, rate in ((plain, 0.1), (masked, 0.3)):
        entrance = model.pre_encoder
        assert (entrance.num_points, entrance.radius, entrance.num_samples) == (2048, 0.2, 64)
        assert {m.p for m in model.layers.modules() if isinstance(m, torch.nn.Dropout)} == {rate}
    assert (masked.interim.num_points, masked.interim.radius, masked.interim.num_samples) == (1024, 0.4, 32)


# ---------------------------------------------------------------- what the engine gets


def test_truths_leave_out_padding():
    batch = {
        "segment": torch.tensor([[1, 2, -1], [0, 1, 2]]),
        "lengths": torch.tensor([2, 3]),
        "boxes": torch.arange(28.0).view(2, 2, 7),
        "box_label": torch.tensor([[3, 0], [4, 5]]),
        "box_mask": torch.tensor([[True, False], [True, True]]),
        "label": torch.tensor([7, 8]),
    }
    found = [[kind.truth(None, batch, i) for i in range(2)] for kind in (EPCLSegmenter, Detector, EPCLClassifier)]
    assert [t["target"].tolist() for t in found[0]] == [[1, 2], [0, 1, 2]]
    assert [t["target_label"].tolist() for t in found[1]] == [[3], [4, 5]]
    assert [t["target_boxes"][:, 0].tolist() for t in found[1]] == [[0], [14, 21]]
    assert [t["label"] for t in found[2]] == [7, 8]
    assert [kind.truth(None, {}, 0) for kind in (EPCLSegmenter, Detector, EPCLClassifier)] == [{}, {}, {}]


def test_a_redrawn_tower_leaves_the_random_state_alone_and_follows_its_seed():
    make = lambda seed: CloudModel(  # noqa: E731
        small_tower(), dict(type="classification3d", num_classes=3, num_groups=8, group_size=6), random_encoder=seed
    ).encoder.state_dict()["blocks.0.mlp.fc1.weight"]
    one, again, two = make(1), make(1), make(2)
    assert one.equal(again)
    assert not one.equal(two)
    tower = small_tower()
    state = torch.get_rng_state()
    redraw(tower, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_detection_has_a_task_token_for_the_background_too():
    model = CloudModel(small_tower(), dict(type="detection3d", num_classes=3, backbone=dict(num_groups=4)))
    assert model.network.backbone.epcl.te_encoder.num_tokens == 4


def test_hidden_projections_of_the_published_detectors():
    """Two hidden layers between encoder and decoder, one behind the masked encoder."""
    for masked, hidden in ((False, 2), (True, 1)):
        with torch.device("meta"):
            model = CloudModel(None, dict(type="detr3d", num_classes=3, backbone=dict(masked=masked)))
        layers = model.network.decoder.encoder_to_decoder_projection.layers
        assert sum(isinstance(m, torch.nn.Conv1d) for m in layers) == hidden + 1
