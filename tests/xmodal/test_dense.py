import numpy as np
import pytest
import timm
import torch

from xmodal.adapters.conv_adapter import conv_adapter
from xmodal.data.collate import collate
from xmodal.dense import MeanIoU, SegmentationModel
from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.heads.dense import LightFPN
from xmodal.toys.shape_segments import CLASSES, ShapeSegments, segment_of
from xmodal.toys.shapes import SHAPES, Thing


def tower():
    torch.manual_seed(0)
    return ConvNet(timm.create_model("resnet14t", num_classes=0, pretrained=False), image_size=64)


def segmenter(**options):
    adapters = [dict(type=conv_adapter, reduction=4, norms="none")]
    return SegmentationModel(tower(), dict(type=LightFPN, num_classes=9, width=16), adapters=adapters, **options)


def test_pictures_have_a_class_a_pixel():
    data = ShapeSegments(12, 64, flip=True)
    seen = set()
    for i in range(12):
        item = data[0, i]
        assert item["image"].shape == (3, 64, 64)
        assert item["segment"].dtype == torch.int64
        seen |= set(item["segment"].unique().tolist())
    assert 0 in seen
    assert 4 < len(seen) <= 1 + max(seen) <= len(CLASSES)
    assert torch.equal(data[0, 3]["image"], data[0, 3]["image"])
    flips = [data[e, 3] for e in range(6)]
    plain = ShapeSegments(12, 64)[3]
    for item in flips:
        mirrored = not torch.equal(item["image"], plain["image"])
        assert torch.equal(item["segment"], plain["segment"].flip(-1) if mirrored else plain["segment"])
    assert not torch.equal(ShapeSegments(12, 64, world=1)[3]["image"], plain["image"])
    with pytest.raises(IndexError):
        data[12]


def test_head_and_adapters_learn_and_the_tower_stays():
    torch.manual_seed(1)
    model, data = segmenter(), ShapeSegments(4, 64)
    frozen = {k: v.clone() for k, v in model.state_dict().items() if k not in model.saved_keys()}
    batch = model.data_preprocessor(collate([data[i] for i in range(4)]), training=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        loss = model.train()(mode="loss", **batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert frozen
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in frozen.items())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    predictions = model.eval()(mode="predict", **batch)
    assert predictions[0]["segment"].shape == (64, 64)
    assert predictions[0]["sample_id"] == "shapes-0-0"
    assert model(mode="tensor", image=batch["image"]).shape == (4, 9, 16, 16)


def test_ignored_pixels_do_not_count():
    head = LightFPN([4, 8], 3, width=8).eval()
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)]
    segment = torch.randint(0, 3, (1, 16, 16))
    part = segment.clone()
    part[:, :8] = -1
    logits = head.full_size(maps, (16, 16))
    want = torch.nn.functional.cross_entropy(logits[:, :, 8:], segment[:, 8:])
    assert torch.allclose(head.loss(maps, part)["loss"], want, atol=1e-6)
    right = (logits[:, :, 8:].argmax(1) == segment[:, 8:]).double().mean().item()
    assert 0 < right < 1
    assert head.loss(maps, part)["pixel_accuracy"].item() == pytest.approx(100 * right, abs=1e-4)
    weight = [0.2, 1.0, 2.0]
    want = torch.nn.functional.cross_entropy(logits[:, :, 8:], segment[:, 8:], torch.tensor(weight))
    weighted = LightFPN([4, 8], 3, width=8, class_weight=weight).eval()
    weighted.load_state_dict(head.state_dict())
    assert torch.allclose(weighted.loss(maps, part)["loss"], want, atol=1e-6)
    with pytest.raises(ValueError, match="holds class 5"):
        head.loss(maps, segment.clamp(max=0) + 5)


def test_mean_iou_by_hand():
    metric = MeanIoU(3)
    said, truth = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [0, -1]])
    metric.process({"skipped": [{"sample_id": "x", "reason": "y"}]}, [{"segment": said, "target": truth}])
    found = metric.evaluate(2)
    assert found["iou"] == [50.0, 50.0, None]
    assert found["miou"] == 50.0
    assert np.isclose(found["pixel_accuracy"], 200 / 3)
    assert (found["evaluated"], found["of"], len(found["skipped"])) == (1, 2, 1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="has no stages"):
        SegmentationModel(tiny_clip_encoder("random"), dict(type=LightFPN, num_classes=3))
    with pytest.raises(ValueError, match='norms="none"'):
        SegmentationModel(tower(), dict(type=LightFPN, num_classes=3), adapters=[dict(type=conv_adapter, reduction=4)])
    with pytest.raises(ValueError, match="choose tensor"):
        segmenter()(mode="segment", image=torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="2 classes"):
        LightFPN([4], 1)
    with pytest.raises(ValueError, match="2 entries for 3 classes"):
        LightFPN([4], 3, class_weight=[1.0, 1.0])


def test_pixels_of_all_processes_add_up(monkeypatch):
    """The other process has four pixels of class 2, all of them taken for class 1."""
    theirs = np.zeros((3, 4), np.int64)
    theirs[2, 1] = 4
    monkeypatch.setattr("xmodal.dense.gather", lambda mine: [mine, (theirs, 2, [{"sample_id": "z", "reason": "r"}])])
    metric = MeanIoU(3)
    metric.process({}, [{"segment": torch.tensor([[0, 1]]), "target": torch.tensor([[0, 1]])}])
    found = metric.evaluate(4)
    assert found["iou"] == [100.0, 100 * 1 / 5, 0.0]
    assert found["miou"] == pytest.approx(40)
    assert found["pixel_accuracy"] == pytest.approx(100 * 2 / 6)
    assert (found["evaluated"], len(found["skipped"])) == (3, 1)


def test_the_head_adds_coarse_maps_to_fine_ones():
    """With everything else the identity, a fine map of ones and a coarse one of 10 to 40 are added pixel by pixel."""
    head = LightFPN([1, 1], 2, width=1).eval()
    with torch.no_grad():
        for layer in (*head.lateral, head.classify):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
        head.smooth = torch.nn.Identity()
    fine, coarse = torch.ones(1, 1, 4, 4), torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]])
    want = np.kron(coarse[0, 0].numpy(), np.ones((2, 2))) + 1
    out = head([fine, coarse])
    assert out.shape == (1, 2, 4, 4)
    assert np.allclose(out[0, 0].detach().numpy(), want)


def test_a_pixels_class_is_the_shape_that_covers_it():
    """Classes: 0 the background, then the shapes in their order; of two shapes the one drawn last is in front."""
    for number, shape in enumerate(SHAPES, start=1):
        segment = segment_of((Thing(shape, "red", 0.3, 0.5, 0.4),), 48)
        assert set(np.unique(segment)) == {0, number}
        assert CLASSES[number] == shape
    both = segment_of((Thing("circle", "red", 0.5, 0.5, 0.8), Thing("square", "blue", 0.5, 0.5, 0.3)), 48)
    assert CLASSES[both[24, 24]] == "square"
    assert CLASSES[both[24, 9]] == "circle"
    assert CLASSES[both[1, 1]] == "background"
