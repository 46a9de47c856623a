"""Detectors on sparse networks: against dense convolutions, released files, learning, scenes apart from each other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pointcloud.checkpoints import EPCL_DETECTION, official_export, official_state
from pointcloud.model import CloudModel
from pointcloud.sparse import SparseTensor
from pointcloud.sparse_detection import FrozenBottleneck, VDETRBackbone, clouds_of, epcl_sparse3d, vdetr3d_sparse
from pointcloud.sparse_layers import SparseBasicBlock, to_spconv
from pointcloud.sparse_resnet import SparseResNetFPN
from pointcloud.sparse_segmentation import SparseSegmenter
from pointcloud.transforms import RandomScale
from pointcloud.vdetr import vdetr3d
from tests.pointcloud.towers import small_tower
from xmodal.encoders.frozen import freeze

DECODER = dict(dim=16, num_heads=2, ffn_dim=16, depth=2, num_queries=6)
WIDTHS = (8, 8, 16, 16)


def scene(batch=2, points=400):
    generator = torch.Generator().manual_seed(0)
    coord = torch.rand(batch, points, 3, generator=generator) * 2
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 1, 1, 1, 0], [1.4, 1.4, 1, 0.6, 0.8, 1, 0.4]]]).repeat(batch, 1, 1)
    label = torch.tensor([[0, 2]]).repeat(batch, 1)
    targets = dict(boxes=boxes, box_label=label, box_mask=torch.ones(batch, 2, dtype=torch.bool))
    return dict(coord=coord, feat=torch.rand(batch, points, 3, generator=generator)), targets


def epcl(**backbone):
    torch.manual_seed(0)
    backbone = dict(widths=WIDTHS, num_groups=8, group_size=4, voxel=0.05, num_points=32, **backbone)
    network = dict(type=epcl_sparse3d, num_classes=3, num_angle_bins=4, min_score=0.0, decoder=DECODER)
    return CloudModel(small_tower(), {**network, "backbone": backbone})


def vdetr():
    torch.manual_seed(0)
    backbone = dict(depth=18, widths=(8, 8, 8, 8), out_dim=16, voxel=0.05, num_points=64)
    network = dict(type=vdetr3d_sparse, num_classes=3, num_angle_bins=4, min_score=0.0, backbone=backbone)
    return CloudModel(None, {**network, "decoder": {**DECODER, "width": 8}})


def vdetr_on_detr():
    torch.manual_seed(0)
    backbone = dict(dim=16, num_heads=2, depth=2, ffn_dim=32, num_points=32, feat_dim=3)
    network = dict(type=vdetr3d, num_classes=3, num_angle_bins=4, min_score=0.0, backbone=backbone)
    return CloudModel(None, {**network, "decoder": {**DECODER, "width": 8}})


@pytest.mark.parametrize("make", [epcl, vdetr, vdetr_on_detr])
def test_the_loss_falls_and_boxes_come_out(make):
    model = make().train()
    inputs, targets = scene()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-3)
    losses = []
    for _ in range(25):
        loss = model(mode="loss", **inputs, **targets)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    unused = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    found = model.eval()(mode="predict", **inputs)
    assert all(f["boxes"].shape[1] == 7 and len(f["boxes"]) == len(f["scores"]) > 0 for f in found)
    assert not any(".blocks." in k for k in model.saved_keys())


@pytest.mark.parametrize("make", [epcl, vdetr])
def test_a_scene_does_not_depend_on_its_batch_mates_nor_on_padding(make):
    model = make().eval()
    inputs, _ = scene()
    lengths = torch.tensor([300, 400])
    with torch.no_grad():
        together = model(**inputs, lengths=lengths)[-1]["boxes"][0]
        alone = model(coord=inputs["coord"][:1, :300], feat=inputs["feat"][:1, :300])[-1]["boxes"][0]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tower", [small_tower, lambda: None])
def test_a_sparse_segmenter_learns_and_tells_points_of_one_voxel_apart(tower):
    torch.manual_seed(0)
    options = dict(num_classes=3, voxel=0.1, widths=WIDTHS, num_groups=8, group_size=4)
    model = CloudModel(tower(), dict(type=SparseSegmenter, **options)).train()
    inputs, _ = scene()
    batch = dict(**inputs, segment=(inputs["coord"][..., 2] * 1.4).long(), lengths=torch.tensor([300, 400]))
    optimizer, losses = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2), []
    for _ in range(12):
        loss = model(mode="loss", **batch)["loss_segment"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.eval()
    with torch.no_grad():
        first = model(mode="predict", **inputs, lengths=batch["lengths"])[0]["logits"]
        alone = model(mode="predict", coord=inputs["coord"][:1, :300], feat=inputs["feat"][:1, :300])[0]["logits"]
    torch.testing.assert_close(first, alone, atol=1e-4, rtol=1e-4)
    assert len(torch.unique(first, dim=0)) == 300


def test_rows_go_back_to_where_they_came_from():
    """Clouds whose rows are mixed, each in its own order, give what they give one behind the other."""
    torch.manual_seed(0)
    one = torch.unique(torch.randint(0, 9, (80, 3)) * 8, dim=0)
    cells = torch.cat([F.pad(one, (1, 0)), F.pad(one[:50], (1, 0), value=1)])
    features = torch.randn(len(cells), 6)
    mixed = torch.cat([torch.rand(len(one)).sort()[0], torch.rand(50).sort()[0]]).argsort()
    middle = FrozenBottleneck(freeze(small_tower()), 6, 2, 8, 4, 0.02).eval()
    with torch.no_grad():
        found = middle(SparseTensor.make(features, cells, 8)).features
        again = middle(SparseTensor.make(features[mixed], cells[mixed], 8)).features
    assert found.abs().sum() > 0
    torch.testing.assert_close(again, found[mixed])
    places, values, lengths, _ = clouds_of(SparseTensor.make(features[mixed], cells[mixed], 8))
    assert lengths.tolist() == [len(one), 50]
    assert torch.equal(places[1, :50], one[:50].float())
    assert torch.equal(values[0], features[: len(one)])


def test_a_residual_block_with_a_stride_is_dense_convolutions_read_at_the_voxels():
    torch.manual_seed(0)
    side = 6
    there = torch.rand(side, side, side) < 0.4
    cells = F.pad(there.nonzero(), (1, 0))
    x = SparseTensor.make(torch.randn(len(cells), 3), cells)
    block = SparseBasicBlock(5, 3, 2).eval()
    grid = torch.zeros(1, 3, side, side, side)
    i, j, k = there.nonzero().T
    grid[0, :, i, j, k] = x.features.t()
    coarse = F.max_pool3d(there[None].float(), 2)[0] > 0
    mask = coarse[None, None].float()

    def norm(layer, y):
        bn = layer.bn
        return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    def weight(conv, size):
        return to_spconv(conv.kernel if conv.kernel.ndim == 3 else conv.kernel[None], size).permute(0, 4, 1, 2, 3)

    with torch.no_grad():
        y = F.conv3d(grid, weight(block.conv1, 3), stride=2, padding=1)
        y = norm(block.norm1, y).relu() * mask
        y = norm(block.norm2, F.conv3d(y, weight(block.conv2, 3), padding=1))
        way = norm(block.downsample[1], F.conv3d(grid, weight(block.downsample[0], 1), stride=2))
        found = block(x)
        i, j, k = (found.coordinates[:, 1:] // 2).T
        torch.testing.assert_close(found.features, (y + way).relu()[0][:, i, j, k].t(), atol=1e-5, rtol=1e-4)


def test_the_published_backbone_has_its_sizes():
    with torch.device("meta"):
        net = SparseResNetFPN(6)
    stage = lambda a, b, n: 27 * a * b + 27 * b * b * (2 * n - 1) + (a * b + 2 * b) + 4 * b * n  # noqa: E731
    stages = stage(64, 64, 3) + stage(64, 128, 4) + stage(128, 256, 6) + stage(256, 512, 3)
    ups = sum(8 * 2 * w * w + 27 * w * w + 4 * w for w in (64, 128, 256))
    assert sum(p.numel() for p in net.parameters()) == 27 * 6 * 64 + 128 + stages + ups + 27 * 64 * 256 + 512
    assert len(net.layers) == 4
    with pytest.raises(ValueError, match="depth=50: there are 18, 34"):
        SparseResNetFPN(depth=50)


def test_colors_are_brought_to_the_published_range():
    backbone = VDETRBackbone(18, (4, 4, 4, 4), 4, num_points=2)
    coord = torch.tensor([[[0.005, 0.0, 0.0]]])
    x = backbone.voxels(coord, torch.tensor([[[1.0, 0.5, 0.0]]]), None)
    want = [0.005, 0, 0, (255 - 109.8) / 256, (127.5 - 97.2) / 256, -83.8 / 256]
    assert np.allclose(x.features[0], want, atol=1e-6)
    with pytest.raises(ValueError, match="features of 3 channels, got none"):
        backbone(coord)


def released(tmp_path, **changes):
    """A file of the layout of the release: backbone, frozen tower, and a head that is not built here."""
    model = epcl()
    state = {k.removeprefix("network."): v for k, v in model.state_dict().items() if k in model.saved_keys()}
    official = EPCL_DETECTION.to_official(state)
    more = {
        "epcl.encoder.blocks.0.attn.in_proj_weight": torch.zeros(3, 3),
        "epcl.encoder.te_tok": torch.arange(4),
        "dense_head.cls_conv.kernel": torch.zeros(64, 18),
        "roi_head.reg.weight": torch.zeros(1),
        "global_step": torch.zeros(1),
    }
    torch.save(
        {"epoch": 12, "it": 3, "model_state": {**official, **more, **changes}, "version": "0"}, tmp_path / "a.pth"
    )
    return official


def test_the_released_backbone_comes_in_and_goes_out_exactly(tmp_path):
    official = released(tmp_path)
    assert {k.split(".")[1] for k in official} == {
        "embdding_layer", "downsampling_layer_2", "downsampling_layer_4", "downsampling_layer_8", "upsampling_layer_4",
        "upsampling_layer_2", "out_layer", "pre_encoder", "encoder",
    }  # fmt: skip
    torch.manual_seed(7)
    model = CloudModel(
        small_tower(),
        dict(type=epcl_sparse3d, num_classes=3, num_angle_bins=4, decoder=DECODER,
             backbone=dict(widths=WIDTHS, num_groups=8, group_size=4, voxel=0.05, num_points=32)),
    )  # fmt: skip
    with pytest.warns(
        UserWarning, match=r"a\.pth: 3 weights have no place here and are left out: dense_head\.cls_conv"
    ):
        state, name = official_state(model, str(tmp_path / "a.pth"))
    assert name == "epcl-detection"
    again, name = official_export(state)
    assert name == "epcl-detection"
    assert again["model_state"].keys() == official.keys()
    assert all(torch.equal(again["model_state"][k], v) for k, v in official.items())


def test_a_file_of_another_size_is_refused_by_name(tmp_path):
    key = "epcl.out_layer.0.kernel"
    released(tmp_path, **{key: torch.zeros(16, 8)})
    match = r"a\.pth has other sizes than this network: backbone\.net\.out_layer\.0\.kernel \(16, 8\) for \(8, 8\)"
    with pytest.raises(ValueError, match=match):
        official_state(epcl(), str(tmp_path / "a.pth"))
    released(tmp_path, **{"epcl.strange.kernel": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"no rule renames the key 'epcl\.strange\.kernel'"):
        official_state(epcl(), str(tmp_path / "a.pth"))


def test_v_detr_on_3detrs_encoder_is_no_file_of_3detr():
    model = vdetr_on_detr()
    with pytest.raises(ValueError, match="no official checkpoints exist for VertexDetector on DETREncoder"):
        official_state(model, "a.pth")
    with pytest.raises(ValueError, match="no official layout fits"):
        official_export(model.state_dict())


def test_scenes_are_scaled_and_moved_with_their_boxes():
    coord = np.array([[1.0, 2, 3], [0, 0, 0]], np.float32)
    boxes = np.array([[1, 2, 3, 2, 2, 2, 0.3]], np.float32)
    found = RandomScale(0.6, 1.4, shift=0.4)({"coord": coord, "boxes": boxes}, np.random.default_rng(0))
    shift = found["coord"][1]
    factor = (found["coord"][0] - shift) / coord[0]
    assert np.allclose(factor, factor[0])
    assert np.abs(shift).max() <= 0.4
    assert len(set(shift.tolist())) == 3
    assert np.allclose(found["boxes"][0], [*(coord[0] * factor[0] + shift), *(2 * factor), 0.3], atol=1e-6)
