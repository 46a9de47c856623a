"""Point transformers: their released files, patches of small clouds, the probe and LoRA inside."""

import numpy as np
import pytest
import safetensors.torch
import torch

from pointcloud.datasets.pointcept import PointceptScanNet
from pointcloud.grid_points import GridSample
from pointcloud.lovasz import lovasz_softmax
from pointcloud.model import CloudModel
from pointcloud.point_transformer import PointProbe, point_transformer
from pointcloud.ptv3 import PointTransformer
from pointcloud.ptv3_level import Level, cut
from pointcloud.serialization import ORDERS, encode
from xmodal.adapters.lora import lora

SMALL = dict(
    in_channels=6, stride=(2,), enc_depths=(1, 1), enc_channels=(8, 16), enc_num_head=(2, 2), enc_patch_size=(8, 8)
)


def cloud(points: int = 200, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(points, 3, generator=generator), torch.rand(points, 3, generator=generator)


def released(path, **config):
    """A file of the layout of Sonata's."""
    torch.manual_seed(0)
    model = PointTransformer(**SMALL, mask_token=True).eval()
    state = {f"module.student.backbone.{k}": v for k, v in model.state_dict().items()}
    torch.save({"config": {**SMALL, "enc_mode": True, "traceable": True, **config}, "state_dict": state}, path)
    return model


def test_files_of_both_layouts_go_in_and_other_sizes_are_refused_by_name(tmp_path):
    model = released(tmp_path / "sonata.pth")
    found = point_transformer(str(tmp_path / "sonata.pth"))
    assert all(torch.equal(v, found.state_dict()[k]) for k, v in model.state_dict().items())
    safetensors.torch.save_file(model.state_dict(), tmp_path / "concerto.safetensors")
    again = point_transformer(str(tmp_path / "concerto.safetensors"), **SMALL)
    assert torch.equal(again.enc["enc1"]["down"].proj.weight, model.enc["enc1"]["down"].proj.weight)
    released(tmp_path / "wide.pth", enc_channels=(8, 24))
    with pytest.raises(ValueError, match=r"wide\.pth has other sizes than .*: enc\.enc1\S+ \(16, 8\) for \(24, 8\)"):
        point_transformer(str(tmp_path / "wide.pth"))
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"no weights called enc\.enc0"):
        point_transformer(str(tmp_path / "other.pth"))


def test_weights_of_spconv_1_are_turned(tmp_path):
    torch.manual_seed(0)
    model = PointTransformer(**SMALL)
    state = model.state_dict()
    key = "enc.enc1.block0.cpe.0.weight"
    old = {**state, "embedding.stem.linear.weight": state["embedding.stem.linear.weight"]}
    old[key] = state[key].permute(1, 2, 3, 4, 0).contiguous()  # (kx, ky, kz, C, D)
    torch.save({"config": dict(SMALL), "state_dict": old}, tmp_path / "old.pth")
    assert torch.equal(point_transformer(str(tmp_path / "old.pth")).state_dict()[key], state[key])


def test_clouds_smaller_than_a_patch_attend_to_themselves_alone():
    """The features of a small cloud do not depend on what stands beside it, nor on the size of the patch."""
    torch.manual_seed(0)
    model = PointTransformer(**SMALL).eval()
    wide = PointTransformer(**{**SMALL, "enc_patch_size": (5, 5)}).eval()
    wide.load_state_dict(model.state_dict())
    grid = torch.tensor([[0, 0, 0], [1, 0, 0], [3, 2, 1], [0, 3, 3], [2, 2, 2]])
    feat = torch.randn(5, 6)
    many = torch.unique(torch.randint(0, 4, (40, 3)), dim=0)
    alone = model.all_levels(grid.float(), grid, torch.zeros(5), feat)
    torch.testing.assert_close(wide.all_levels(grid.float(), grid, torch.zeros(5), feat), alone)
    both = torch.cat([grid, many])
    beside = torch.cat([torch.zeros(5), torch.ones(len(many))])
    found = model.all_levels(both.float(), both, beside, torch.cat([feat, torch.randn(len(many), 6)]))
    torch.testing.assert_close(found[:5], alone)


def test_the_last_patch_is_filled_from_the_one_before():
    patches = cut([7, 3], 3, torch.device("cpu"))
    assert patches.places.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5, 7, 8, 9]
    assert patches.places[patches.back].tolist() == list(range(10))
    assert patches.real is None
    short = cut([2, 3], 3, torch.device("cpu"))
    assert short.real.tolist() == [[True, True, False], [True] * 3]


def test_neighbors_on_a_hilbert_curve_are_neighbors_in_space():
    axis = torch.arange(8)
    grid = torch.cartesian_prod(axis, axis, axis)
    for order in ("hilbert", "hilbert-trans"):
        along = grid[encode(grid, torch.zeros(512), 3, order).argsort()]
        assert ((along[1:] - along[:-1]).abs().sum(1) == 1).all()
    along = grid[encode(grid, torch.zeros(512), 3, "z").argsort()]
    assert along[:4].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    with pytest.raises(ValueError, match="use larger voxels"):
        Level.make(torch.zeros(1, 3), torch.tensor([[2**17, 0, 0]]), torch.zeros(1), list(ORDERS))


def test_random_weights_follow_their_own_seed():
    found = []
    for everywhere, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(everywhere)  # of a run
        found.append(point_transformer(seed=seed, **SMALL).state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())
    assert not all(torch.equal(v, found[2][k]) for k, v in found[0].items())


def test_the_probe_trains_alone_and_with_lora_and_every_point_gets_a_class():
    coord, color = cloud()
    for adapters, trains in (([], {"network.head.weight", "network.head.bias"}), ([dict(type=lora, rank=2)], None)):
        torch.manual_seed(0)
        encoder = point_transformer(**SMALL)
        model = CloudModel(encoder, dict(type=PointProbe, num_classes=3, voxel=0.1), adapters).train()
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained == trains if trains else any("lora" in n for n in trained)
        assert encoder.enc["enc0"]["block0"].training == bool(adapters)
        segment = (coord[:, 2] * 3).long()[None]
        loss = model(mode="loss", coord=coord[None], feat=color[None], segment=segment)["loss_segment"]
        loss.backward()
        assert all(
            p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if n.endswith(".b")
        )
        model.eval()
        found = model(mode="predict", coord=coord[None], feat=color[None])[0]
        assert found["segment"].shape == (200,)
        same = (coord[:, None] * 10).floor().eq((coord[None] * 10).floor()).all(-1)
        shown = found["logits"][same[0].nonzero()[:, 0]]
        assert torch.equal(shown, shown[:1].expand_as(shown))


def test_one_point_of_each_voxel_is_kept_and_the_way_back_known():
    rng = np.random.default_rng(0)
    coord = rng.random((300, 3)).astype(np.float32)
    found = GridSample(0.25)({"coord": coord, "segment": np.arange(300), "name": "a"}, rng)
    assert len(np.unique(found["grid"], axis=0)) == len(found["grid"]) == 64
    cells = np.floor(coord / 0.25).astype(int)
    assert (found["grid"][found["inverse"]] == cells - cells.min(0)).all()
    assert (coord[found["segment"]] == found["coord"]).all()
    assert found["name"] == "a"


def test_a_decoder_trains_on_the_frozen_levels():
    torch.manual_seed(0)
    coord, color = cloud()
    small = dict(channels=(8,), depths=(1,), num_head=(2,), patch_size=(8,))
    network = dict(type=PointProbe, num_classes=3, voxel=0.1, decoder=small, lovasz=1.0)
    model = CloudModel(point_transformer(**SMALL), network).train()
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(n.startswith(("network.decoder.", "network.head.")) for n in trained)
    segment = (coord[:, 2] * 3).long()[None]
    optimizer, totals = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2), []
    for _ in range(10):
        losses = model(mode="loss", coord=coord[None], feat=color[None], segment=segment)
        total = losses["loss_segment"] + losses["loss_lovasz"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.9 * totals[0]
    with pytest.raises(ValueError, match="a decoder of its own"):
        PointProbe(point_transformer(**SMALL, **{f"dec_{k}": v for k, v in small.items()}), 3, decoder=small)
    with pytest.raises(ValueError, match="must fit 2 levels"):
        PointProbe(point_transformer(**SMALL), 3, decoder={})


def test_the_features_may_leave_the_place_out():
    torch.manual_seed(0)
    coord, color = cloud()
    probe = PointProbe(point_transformer(**SMALL).eval(), 3, voxel=0.1, use_coord=False).eval()
    seen = []
    probe.encoder.embedding.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    probe(coord, color, [200])
    cells = np.unique((coord.numpy() - coord.numpy().min(0)) // np.float32(0.1), axis=0)
    assert seen[0].shape == (len(cells), 6)
    assert (seen[0][:, 3:] == 0).all()
    assert {tuple(row) for row in seen[0][:, :3].tolist()} <= {tuple(row) for row in color.tolist()}


def test_lovasz_of_two_rows_by_hand():
    """Class 0: errors .4 (another's row) and .3 at steps 1/2 and 1/2; class 1: .4 (its own row) at step 1."""
    found = lovasz_softmax(torch.tensor([[0.7, 0.3], [0.4, 0.6]]), torch.tensor([0, 1]))
    assert found.item() == pytest.approx((0.35 + 0.4) / 2)
    right = torch.eye(3)[torch.tensor([0, 2, 2])]
    assert lovasz_softmax(right, torch.tensor([0, 2, 2])).item() == 0


def test_scenes_as_pointcept_prepares_them(tmp_path):
    folder = tmp_path / "val" / "scene0011_00"
    folder.mkdir(parents=True)
    np.save(folder / "coord.npy", np.zeros((3, 3)))
    np.save(folder / "color.npy", np.array([[0, 51, 255]] * 3, np.uint8))
    np.save(folder / "segment20.npy", np.array([-1, 0, 19]))
    np.save(folder / "segment200.npy", np.array([199, 255, 7]))
    data = PointceptScanNet(str(tmp_path), "val", repeat=2)
    assert len(data) == 2
    assert data[0]["segment"].tolist() == [-1, 0, 19]
    assert torch.allclose(data[0]["feat"][0], torch.tensor([0, 0.2, 1]))
    wide = PointceptScanNet(str(tmp_path), "val", num_classes=200)
    assert wide[0]["segment"].tolist() == [199, -1, 7]
    assert wide.classes[7] == "class 7"
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"names\.txt has 2 names, and num_classes is 200"):
        PointceptScanNet(str(tmp_path), "val", num_classes=200, names=str(tmp_path / "names.txt"))
    with pytest.raises(ValueError, match="no folders scene"):
        PointceptScanNet(str(tmp_path), "train")
