"""The task networks: shapes, learning, freezing, adapters, padding, checkpoints."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pointcloud.checkpoints import DETR3D, EPCL_CLASSIFICATION, EPCL_SEGMENTATION, load_official
from pointcloud.classification import EPCLClassifier
from pointcloud.criterion import Criterion, angle_bins
from pointcloud.detection import Detector, best_class
from pointcloud.detr_encoder import DETREncoder
from pointcloud.epcl import EPCLDense
from pointcloud.matcher import inside
from pointcloud.metrics import CloudAccuracy
from pointcloud.model import CloudModel
from pointcloud.segmentation import EPCLSegmenter
from tests.pointcloud.towers import small_tower
from tools import convert
from xmodal.encoders.frozen import freeze
from xmodal.engine.checkpoint import load_weights
from xmodal.engine.config import load_config
from xmodal.registry import MODELS, build

SEGMENTER = dict(planes=(16, 32), blocks=(2, 2), strides=(1, 4), num_neighbors=(4, 8))
DECODER = dict(dim=16, num_heads=2, ffn_dim=16, depth=2, num_queries=6)


def cloud_batch(batch=3, size=64, seed=0):
    return torch.randn(batch, size, 3, generator=torch.Generator().manual_seed(seed))


def classifier(**options):
    network = dict(type="classification3d", num_classes=4, num_groups=8, group_size=6, **options)
    return CloudModel(small_tower(), network)


def segmenter(**options):
    return CloudModel(small_tower(), dict(type="segmentation3d", num_classes=5, in_dim=3, **SEGMENTER, **options))


def detector(**options):
    network = dict(type="detection3d", num_classes=3, num_angle_bins=4, decoder=DECODER, **options)
    network["backbone"] = dict(num_groups=12, group_size=6)
    return CloudModel(small_tower(), network)


def box_batch(batch=3):
    boxes = torch.tensor([[0.2, 0.1, 0, 1, 0.8, 0.6, 0.4], [-0.5, 0.4, 0.1, 0.5, 0.8, 0.6, -0.7], [0] * 7])
    mask = torch.tensor([True, True, False])
    return {
        "boxes": boxes.expand(batch, -1, -1),
        "box_label": torch.tensor([[0, 2, 0]] * batch),
        "box_mask": mask.expand(batch, -1),
    }


def batches():
    coord = cloud_batch()
    return [
        (classifier, {"coord": coord, "label": torch.tensor([0, 1, 3])}),
        (segmenter, {"coord": coord, "segment": torch.randint(-1, 5, (3, 64)), "lengths": torch.tensor([64, 40, 50])}),
        (detector, {"coord": coord, **box_batch()}),
    ]


@pytest.mark.parametrize("which", range(3), ids=["classification", "segmentation", "detection"])
class TestEveryTask:
    def test_learns_one_batch_and_leaves_the_tower_alone(self, which):
        make, batch = batches()[which]
        model = make()
        before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
        model.train()
        assert not model.encoder.training
        rate = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
        totals = []
        for _ in range(25):
            losses = model(mode="loss", **batch)
            total = sum(v for k, v in losses.items() if "loss" in k)
            rate.zero_grad()
            total.backward()
            rate.step()
            totals.append(total.item())
        assert min(totals[-3:]) < 0.9 * totals[0]
        assert all(v.equal(before[k]) for k, v in model.encoder.state_dict().items())
        unused = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused

    def test_predictions_name_their_samples(self, which):
        make, batch = batches()[which]
        model = make().eval()
        with torch.no_grad():
            found = model(mode="predict", sample_id=["a", "b", "c"], **batch)
        assert [f["sample_id"] for f in found] == ["a", "b", "c"]
        keys = [{"scores", "label"}, {"segment", "target", "logits"}, {"boxes", "target_boxes", "scores", "box_label"}]
        assert keys[which] <= found[0].keys()

    def test_a_cloud_does_not_depend_on_its_batch_mates(self, which):
        make, batch = batches()[which]
        model = make().eval()
        inputs = {k: v for k, v in batch.items() if k in ("coord", "lengths")}
        with torch.no_grad():
            together = model(mode="predict", **inputs)[0]
            alone = model(mode="predict", **{k: v[:1] for k, v in inputs.items()})[0]
        for key in together.keys() - {"sample_id"}:
            assert np.allclose(np.asarray(together[key]), np.asarray(alone[key]), atol=1e-5)

    def test_what_is_saved_is_enough(self, which):
        make, batch = batches()[which]
        model = make().eval()
        keys = model.saved_keys()
        assert not any(".blocks." in k for k in keys)
        torch.manual_seed(1)
        other = make().eval()
        other.encoder.load_state_dict(model.encoder.state_dict())
        other.load_state_dict({k: v for k, v in model.state_dict().items() if k in keys}, strict=False)
        coord = batch["coord"]
        got, want = (m(mode="predict", coord=coord)[1] for m in (other, model))
        key = ("scores", "logits", "boxes")[which]
        assert np.allclose(np.asarray(got[key]), np.asarray(want[key]), atol=1e-5)

    def test_lora_and_prompts_compose(self, which):
        make, batch = batches()[which]
        model = make()
        adapted = CloudModel(
            small_tower(), copy.deepcopy(NETWORK_OF[which]), adapters=[dict(type="lora", rank=2), dict(type="vpt")]
        )
        losses = adapted(mode="loss", **batch)
        sum(v for k, v in losses.items() if "loss" in k).backward()
        placed = [p for k, p in adapted.named_parameters() if p.requires_grad and "encoder" in k]
        assert placed
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in placed)
        assert len(adapted.saved_keys()) > len(model.saved_keys())


NETWORK_OF = [
    dict(type="classification3d", num_classes=4, num_groups=8, group_size=6),
    dict(type="segmentation3d", num_classes=5, in_dim=3, **SEGMENTER),
    dict(
        type="detection3d", num_classes=3, num_angle_bins=4, decoder=DECODER, backbone=dict(num_groups=12, group_size=6)
    ),
]


NO_GRID = ("adaptformer", "bitfit", "fact", "houlsby", "kadaptation", "lora", "noah", "pfeiffer", "ssf", "vpt")


@pytest.mark.parametrize("name", NO_GRID)
def test_adapters_compose(name):
    model = CloudModel(small_tower(), copy.deepcopy(NETWORK_OF[0]), adapters=[dict(type=name)])
    _, batch = batches()[0]
    losses = model(mode="loss", **batch)
    sum(v for k, v in losses.items() if "loss" in k).backward()
    grads = [p.grad for k, p in model.named_parameters() if "encoder" in k and p.requires_grad]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("name", ["convpass", "aim", "st_adapter"])
def test_grid_adapters_refuse_clouds(name):
    with pytest.raises(ValueError, match="grid"):
        CloudModel(small_tower(), NETWORK_OF[0], adapters=[dict(type=name)])(coord=cloud_batch())


def test_typos_are_named():
    with pytest.raises(ValueError, match="did you mean 'num_groups'"):
        CloudModel(small_tower(), dict(type="classification3d", num_classes=3, num_group=4))
    with pytest.raises(ValueError, match="did you mean 'min_points'"):
        CloudModel(small_tower(), dict(type="detection3d", num_classes=3, min_point=4))


def test_baselines():
    tower = small_tower()
    random = CloudModel(copy.deepcopy(tower), NETWORK_OF[0], random_encoder=3).encoder
    again = CloudModel(copy.deepcopy(tower), NETWORK_OF[0], random_encoder=3).encoder
    weight = "blocks.0.mlp.fc1.weight"
    assert not random.state_dict()[weight].equal(tower.state_dict()[weight])
    assert random.state_dict()[weight].equal(again.state_dict()[weight])
    scratch = CloudModel(tower, NETWORK_OF[0], freeze_encoder=False)
    assert {k for k in scratch.saved_keys() if ".blocks." in k}


def test_classification_counts_and_text(tmp_path):
    text = torch.randn(4, 16)
    model = EPCLClassifier(freeze(small_tower()), 4, 8, 6, text=text)
    assert "loss_text" in model.loss(torch.tensor([0, 1, 2]), coord=cloud_batch())
    np.save(tmp_path / "clip_texts_emb.npy", text.numpy())
    again = EPCLClassifier(freeze(small_tower()), 4, 8, 6, text=str(tmp_path / "clip_texts_emb.npy"))
    assert again.text.equal(text)
    with pytest.raises(ValueError, match="do not fit 5 classes"):
        EPCLClassifier(small_tower(), 5, text=text)
    big = EPCLClassifier(freeze(small_tower(dim=768, depth=1, out_dim=512, num_heads=12)), 40)
    assert sum(p.numel() for p in big.parameters() if p.requires_grad) == 3_067_176


def test_votes_are_averaged_and_named():
    model = classifier(votes=3, vote_points=20).eval()
    seen = []
    model.network.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["coord"]), with_kwargs=True)
    coord = cloud_batch(2, 50)
    found = model(mode="predict", coord=coord, label=torch.tensor([0, 1]))
    assert [tuple(x.shape) for x in seen] == [(2, 20, 3)] * 3
    assert not seen[0].equal(seen[1])
    again = model(mode="predict", coord=coord)
    assert found[0]["scores"].equal(again[0]["scores"])
    metric = CloudAccuracy()
    metric.process({}, found)
    assert metric.evaluate(2)["votes"] == 3
    with pytest.raises(ValueError, match="same number of points"):
        model(mode="predict", coord=coord, lengths=torch.tensor([50, 40]))


def test_queries_see_the_points_around_them():
    _, batch = batches()[2]
    model = detector(votes=True, query_points=dict(radius=1.0, num_points=8, width=8))
    losses = model(mode="loss", **batch)
    assert {"loss_vote", "loss_on_object"} <= losses.keys()
    sum(v for k, v in losses.items() if "loss" in k).backward()
    assert sum(p.grad.abs().sum() for p in model.network.look.parameters()) > 0
    with pytest.raises(ValueError, match="votes=True"):
        detector(query_points=dict())


def test_segmentation_count_is_the_papers():
    with torch.device("meta"):
        model = EPCLSegmenter(freeze(small_tower(dim=768, depth=1, num_heads=12)), 13)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 8_500_609


def test_detector_count_is_the_papers():
    with torch.device("meta"):
        model = Detector(DETREncoder(), 18)
    ours = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.backbone.pre_encoder.parameters())
    assert ours == 7_263_643


@pytest.mark.parametrize("masked", [False, True])
def test_detr_encoder(masked):
    model = DETREncoder(masked=masked, dim=16, num_heads=2, ffn_dim=8, num_points=20).eval()
    xyz, features = model(cloud_batch(), lengths=torch.tensor([64, 64, 7]))
    assert xyz.shape == (3, 10 if masked else 20, 3)
    assert features.shape == (3, xyz.shape[1], 16)
    assert features.isfinite().all()


def test_masked_encoder_attends_within_its_radius():
    near = torch.rand(1, 40, 3) * 0.1
    far = near.clone()
    far[:, 20:] += torch.tensor([50.0, 0, 0])
    changed = far.clone()
    changed[:, 20:] = torch.rand(1, 20, 3) * 0.1 + torch.tensor([80.0, 0, 0])
    model = DETREncoder(masked=True, dim=16, num_heads=2, ffn_dim=8, num_points=40, radii=(0.3, 0.6, 0.9)).eval()
    a, b = model(far), model(changed)
    here = a[0][0, :, 0] < 1
    assert torch.allclose(a[1][0, here], b[1][0, b[0][0, :, 0] < 1], atol=1e-5)


def test_dense_encoder_ignores_padding():
    model = EPCLDense(freeze(small_tower()), 6, 5, 4).eval()
    coord, feat = cloud_batch(2, 30).mul(9).round(), torch.randn(2, 30, 6)
    lengths = torch.tensor([30, 17])
    out, _ = model(coord, feat, lengths)
    coord[1, 17:], feat[1, 17:] = 1e3, 1e3
    again, _ = model(coord, feat, lengths)
    assert torch.allclose(out[1, :17], again[1, :17])


def test_segmenter_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="different numbers of stages"):
        EPCLSegmenter(None, 3, planes=(16, 32))
    with pytest.raises(ValueError, match="multiple of 5 neighbors"):
        EPCLSegmenter(None, 3, planes=(16, 32), blocks=(2, 2), strides=(1, 4), num_neighbors=(5, 8))
    with pytest.raises(ValueError, match="in_dim=6"):
        EPCLSegmenter(None, 3, **SEGMENTER)(torch.zeros(9, 3), None, [9])
    with pytest.raises(ValueError, match="too small"):
        EPCLSegmenter(None, 3, in_dim=3, **SEGMENTER)(torch.rand(3, 3), None, [3])


def test_official_names_come_back():
    model = EPCLSegmenter(None, 5, in_dim=3, **SEGMENTER)
    official = EPCL_SEGMENTATION.to_official(model.state_dict())
    assert "enc1.1.transformer2.0.channelMixMLPs02.1.weight" in official
    assert official["enc1.1.transformer2.0.channelMixMLPs02.1.weight"].ndim == 3
    back = EPCL_SEGMENTATION.to_ours(official)
    assert all(back[k].equal(v) for k, v in model.state_dict().items())
    head = {k: v for k, v in classifier().network.state_dict().items() if "encoder.blocks" not in k}
    own = {k: v for k, v in head.items() if not k.startswith("epcl.encoder.")}
    assert EPCL_CLASSIFICATION.to_ours(EPCL_CLASSIFICATION.to_official(own)).keys() == own.keys()


class TestCriterion:
    def test_angle_bins_round_trip(self):
        angle = torch.linspace(-math.pi + 1e-3, math.pi, 77)
        index, residual = angle_bins(angle, 12)
        back = index * (2 * math.pi / 12) + residual
        assert torch.allclose((back - angle).cos(), torch.ones(77), atol=1e-6)
        assert (residual.abs() <= math.pi / 12 + 1e-5).all()

    def test_a_perfect_prediction_costs_nothing(self):
        criterion = Criterion(3, 4)
        low, high = torch.full((1, 3), -2.0), torch.full((1, 3), 2.0)
        straight = box_batch(1)
        straight["boxes"] = straight["boxes"].clone()
        straight["boxes"][..., 6] = torch.tensor([0.0, -math.pi / 2, 0.0])  # the enclosing box is axis-aligned
        targets = criterion.targets_of(**straight, low=low, high=high)
        logits = torch.full((1, 3, 4), -30.0)
        logits[0, 0, 2] = logits[0, 1, 0] = logits[0, 2, 3] = 30.0
        order = torch.tensor([1, 0, 2])
        angle_logits = torch.full((1, 3, 4), -30.0).scatter(2, targets["angle_class"][:, order, None], 30.0)
        residual = targets["angle_residual"][:, order, None].expand(-1, -1, 4) * (4 / math.pi)
        predicted = {
            "logits": logits,
            "class_probs": logits.softmax(-1)[..., :-1],
            "objectness": 1 - logits.softmax(-1)[..., -1],
            "boxes": targets["boxes"][:, order],
            "center_normalized": targets["center_normalized"][:, order],
            "size_normalized": targets["size_normalized"][:, order],
            "angle_logits": angle_logits,
            "angle_raw": residual,
        }
        _, assigned = criterion.match(predicted, targets)
        assert assigned.tolist() == [[1, 0, -1]]
        total, terms = criterion([predicted], targets)
        assert float(total) < 1e-5
        assert float(terms["loss_cardinality"]) == 0

    def test_every_query_inside_answers(self):
        query = torch.tensor([[[0.2, 0.1, 0.0], [0.5, 0.3, 0.1], [0.78, 0.1, 0.0], [-3.0, 0.0, 0.0]]])
        batch = box_batch(1)
        found = inside(query, batch, 0.1)
        assert found.tolist() == [[0, 0, 0, -1]]
        assert inside(query, batch, 0.0).tolist() == [[0, 0, -1, -1]]
        assert inside(query, {k: v[:, :0] for k, v in batch.items()}, 0.1).tolist() == [[-1] * 4]

    def test_scenes_without_boxes(self):
        model = detector().train()
        empty = {
            "boxes": torch.zeros(3, 0, 7),
            "box_label": torch.zeros(3, 0).long(),
            "box_mask": torch.zeros(3, 0).bool(),
        }
        losses = model(mode="loss", coord=cloud_batch(), **empty)
        losses["loss"].backward()
        assert losses["loss"].isfinite()
        assert losses["last_giou"] == 0

    def test_released_rule_looks_for_positive_yaw(self):
        from pointcloud.matcher import pairwise_giou

        targets = {"boxes": torch.tensor([[[0.0, 0, 0, 3, 0.5, 1, -0.8]]]), "box_mask": torch.ones(1, 1)}
        same = targets["boxes"]
        assert pairwise_giou(same, targets, "exact").item() == pytest.approx(0.245, abs=1e-3)
        assert pairwise_giou(same, targets, "released").item() != pairwise_giou(same, targets, "exact").item()
        with pytest.raises(ValueError, match="exact or released"):
            pairwise_giou(same, targets, "fast")


def test_best_class_names_each_box_once():
    boxes = np.repeat(np.arange(14.0).reshape(2, 7), 2, axis=0)
    found = {"boxes": boxes, "box_label": np.array([0, 1, 0, 1]), "scores": np.array([0.9, 0.4, 0.1, 0.2])}
    kept = best_class({**found, "sample_id": "a room"})
    assert kept["box_label"].tolist() == [0]


def test_released_files_load(tmp_path):
    torch.manual_seed(1)
    there, here = classifier().network, classifier().network
    own = {k: v for k, v in there.state_dict().items() if not k.startswith("epcl.encoder.")}
    official = EPCL_CLASSIFICATION.to_official(own)
    assert {k.split(".")[0] for k in official} == {
        "encoder", "pos_embed", "te_encoder", "norm", "proj2emb", "cls_head_finetune",
    }  # fmt: skip
    state = {f"module.{k}": v for k, v in official.items()} | {"module.clip_vit.proj": torch.zeros(1)}
    torch.save({"base_model": state, "epoch": 3}, tmp_path / "ckpt-best.pth")
    load_official(here, tmp_path / "ckpt-best.pth", EPCL_CLASSIFICATION)
    assert all(here.state_dict()[k].equal(v) for k, v in own.items())
    torch.save({k: v for k, v in state.items() if "norm" not in k}, tmp_path / "torn.pth")
    with pytest.raises(ValueError, match="missing"):
        load_official(here, tmp_path / "torn.pth", EPCL_CLASSIFICATION)


def test_convert_brings_released_files_in_and_out(tmp_path, capsys):
    config = str(Path(__file__).parents[2] / "configs/pointcloud/epcl_tiny-clip_512_objects.py")
    model = build(load_config(config).model, MODELS)
    torch.nn.init.normal_(model.network.norm.weight)
    own = {k: v for k, v in model.network.state_dict().items() if not k.startswith("epcl.encoder.")}
    torch.save({"base_model": EPCL_CLASSIFICATION.to_official(own)}, tmp_path / "official.pth")
    assert convert.main([config, str(tmp_path / "official.pth"), str(tmp_path / "ours.pth")]) == 0
    other = build(load_config(config).model, MODELS)
    load_weights(other, str(tmp_path / "ours.pth"))
    assert other.network.norm.weight.equal(model.network.norm.weight)
    assert convert.main([config, str(tmp_path / "ours.pth"), str(tmp_path / "back.pth"), "--export"]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["base_model"]
    assert back["norm.weight"].equal(model.network.norm.weight)
    assert "epcl-classification" in capsys.readouterr().out


@pytest.mark.parametrize("masked", [False, True])
def test_3detr_names_come_back(masked):
    model = Detector(DETREncoder(masked=masked, num_points=8), 3, decoder=dict(DECODER, dim=16))
    official = DETR3D.to_official(model.state_dict())
    assert official["pre_encoder.mlp_module.layer0.conv.weight"].shape == (64, 3, 1, 1)
    assert ("encoder.interim_downsampling.mlp_module.layer2.bn.bn.weight" in official) == masked
    assert "decoder.layers.0.multihead_attn.in_proj_weight" in official
    back = DETR3D.to_ours(official)
    assert all(back[k].equal(v) for k, v in model.state_dict().items())


@pytest.mark.slow
def test_epcl_is_one_graph():
    """Grouping of points, tower and head, forward and backward."""
    torch._dynamo.reset()
    model, points = classifier().eval(), cloud_batch()
    compiled = torch.compile(lambda coord: model(coord=coord, mode="tensor"), backend="aot_eager", fullgraph=True)
    got, want = compiled(points), model(coord=points, mode="tensor")
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    sum(part.square().sum() for part in got if part.requires_grad).backward()
