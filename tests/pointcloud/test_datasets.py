"""Readers on small files written in exactly the released layouts, and what happens to broken ones."""

import pickle

import numpy as np
import pytest
import torch

from pointcloud.datasets.base import CloudDataset, CloudError
from pointcloud.datasets.files import read_cloud
from pointcloud.datasets.objects import FewShotClouds, ModelNet40, ModelNet40H5, ScanObjectNN
from pointcloud.datasets.s3dis import S3DIS
from pointcloud.datasets.safe_files import cached, load_pickle
from pointcloud.datasets.scannet import MMDet3DIndoor, ScanNetDetection, ScanNetSegmentation, with_features
from pointcloud.datasets.semantickitti import SemanticKITTI
from pointcloud.datasets.sunrgbd import SUNRGBD, SUNRGBD_CLASSES
from pointcloud.formats.scan import unit_colors
from xmodal.data.broken import TooManyBrokenFilesError


def rng():
    return np.random.default_rng(0)


@pytest.fixture
def modelnet(tmp_path):
    (tmp_path / "modelnet40_shape_names.txt").write_text("airplane\nnight_stand\n")
    (tmp_path / "modelnet40_train.txt").write_text("airplane_0001\nnight_stand_0002\n")
    for name in ("airplane_0001", "night_stand_0002"):
        folder = tmp_path / name.rsplit("_", 1)[0]
        folder.mkdir()
        np.savetxt(folder / f"{name}.txt", rng().normal(size=(20, 6)), fmt="%.6f", delimiter=",")
    return tmp_path


class TestObjects:
    def test_modelnet_text(self, modelnet):
        data = ModelNet40(str(modelnet), "train", normals=True)
        item = data[1]
        assert data.classes == ["airplane", "night_stand"]
        assert (item["sample_id"], item["label"]) == ("night_stand_0002", 1)
        assert item["coord"].shape == item["feat"].shape == (20, 3)
        assert item["coord"].dtype == torch.float32
        want = np.loadtxt(modelnet / "night_stand" / "night_stand_0002.txt", delimiter=",")
        assert np.allclose(item["coord"], want[:, :3], atol=1e-6)
        assert np.allclose(item["feat"], want[:, 3:], atol=1e-6)
        assert "feat" not in ModelNet40(str(modelnet), "train")[1]

    def test_modelnet_h5(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        (tmp_path / "shape_names.txt").write_text("a\nb\nc\n")
        (tmp_path / "train_files.txt").write_text("data/modelnet40_ply_hdf5_2048/ply_data_train0.h5\n")
        with h5py.File(tmp_path / "ply_data_train0.h5", "w") as f:
            f["data"] = rng().normal(size=(4, 2048, 3)).astype(np.float32)
            f["label"] = np.array([[0], [2], [1], [2]], np.uint8)
        data = ModelNet40H5(str(tmp_path), "train")
        assert [data[i]["label"] for i in range(4)] == [0, 2, 1, 2]
        assert data.classes == ["a", "b", "c"]
        assert data[0]["coord"].shape == (2048, 3)

    def test_modelnet_h5_splits_and_parts(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        (tmp_path / "shape_names.txt").write_text("a\nb\n")
        (tmp_path / "train_files.txt").write_text("data/train0.h5\n")
        (tmp_path / "test_files.txt").write_text("data/test1.h5\ndata/test0.h5\n")
        for name, value in (("train0", 0), ("test0", 1), ("test1", 2)):
            with h5py.File(tmp_path / f"{name}.h5", "w") as f:
                f["data"], f["label"] = np.full((2, 4, 3), value, np.float32), np.array([[0], [1]], np.uint8)
        data = ModelNet40H5(str(tmp_path), "test")
        assert [(data[i]["coord"][0, 0].item(), data[i]["label"]) for i in range(4)] == [(2, 0), (2, 1), (1, 0), (1, 1)]
        assert [data[i]["sample_id"] for i in range(4)] == ["test1/0", "test1/1", "test0/0", "test0/1"]
        assert ModelNet40H5(str(tmp_path), "train")[0]["coord"].sum() == 0

    @pytest.mark.parametrize(
        ("variant", "path"),
        [
            ("obj_bg", "main_split/training_objectdataset.h5"),
            ("obj_only", "main_split_nobg/training_objectdataset.h5"),
            ("pb_t50_rs", "main_split/training_objectdataset_augmentedrot_scale75.h5"),
        ],
    )
    def test_scanobjectnn(self, tmp_path, variant, path):
        h5py = pytest.importorskip("h5py")
        (tmp_path / path).parent.mkdir()
        points = rng().normal(size=(3, 2048, 3)).astype(np.float32)
        with h5py.File(tmp_path / path, "w") as f:
            f["data"], f["label"], f["mask"] = points, np.array([0, 14, 3]), np.zeros((3, 2048))
        data = ScanObjectNN(str(tmp_path), "train", variant)
        assert data.num_classes == 15
        assert data[1]["label"] == 14
        x, y, z = points[1].T
        # y was up; a quarter turn around x, not a mirror image: handedness is kept
        assert np.allclose(data[1]["coord"], np.stack([x, -z, y], axis=1))
        assert np.allclose(ScanObjectNN(str(tmp_path), "train", variant, keep_axes=True)[1]["coord"], points[1])
        with pytest.raises(ValueError, match="did you mean 'obj_bg'"):
            ScanObjectNN(str(tmp_path), "train", "obj_bgg")

    def test_fewshot(self, tmp_path):
        (tmp_path / "5way_10shot").mkdir()
        row = lambda label: (rng().normal(size=(64, 6)), label, "name")  # noqa: E731
        episode = {"train": [row(i % 5) for i in range(50)], "test": [row(i % 5) for i in range(10)]}
        with open(tmp_path / "5way_10shot" / "3.pkl", "wb") as f:
            pickle.dump(episode, f)
        data = FewShotClouds(str(tmp_path), 5, 10, 3, "train")
        assert len(data) == 50
        assert data[7]["label"] == 2
        assert data[7]["coord"].shape == (64, 3)
        test = FewShotClouds(str(tmp_path), 5, 10, 3, "test", normals=True)
        assert len(test) == 10
        points = episode["test"][4][0].astype(np.float32)
        assert np.array_equal(test[4]["coord"], points[:, :3])
        assert np.array_equal(test[4]["feat"], points[:, 3:])
        (tmp_path / "5way_20shot").mkdir()
        (tmp_path / "5way_10shot" / "3.pkl").rename(tmp_path / "5way_20shot" / "3.pkl")
        with pytest.raises(ValueError, match="expected 5 x 20"):
            FewShotClouds(str(tmp_path), 5, 20, 3, "train")

    def test_class_names_are_checked(self, modelnet):
        (modelnet / "modelnet40_train.txt").write_text("airplan_0001\n")
        with pytest.raises(ValueError, match="did you mean 'airplane'"):
            ModelNet40(str(modelnet), "train")


class TestRooms:
    @pytest.fixture
    def table(self):
        r = rng()
        return np.concatenate([r.random((30, 3)), r.integers(0, 256, (30, 3)), r.integers(0, 2, (30, 1))], axis=1)

    @pytest.mark.parametrize("folders", [False, True])
    def test_s3dis(self, tmp_path, table, folders):
        (tmp_path / "list").mkdir()
        (tmp_path / "list" / "s3dis_names.txt").write_text("ceiling\nfloor\n")
        table[0, 6] = 255
        for area in (1, 5):
            if folders:
                room = tmp_path / "all" / f"Area_{area}" / "office_1"
                room.mkdir(parents=True)
                np.save(room / "coord.npy", table[:, :3])
                np.save(room / "color.npy", table[:, 3:6].astype(np.uint8))
                np.save(room / "segment.npy", table[:, 6:].astype(np.int16))
            else:
                (tmp_path / "all").mkdir(exist_ok=True)
                np.save(tmp_path / "all" / f"Area_{area}_office_1.npy", table)
        data = S3DIS(str(tmp_path), areas=(5,), folder="all", repeat=3)
        assert len(data) == 3
        assert data.sample_ids == ["Area_5_office_1"] * 3
        both = S3DIS(str(tmp_path), areas=None, folder="all")
        assert both.sample_ids == ["Area_1_office_1", "Area_5_office_1"]
        item = data[0]
        assert item["sample_id"] == "Area_5_office_1"
        assert item["segment"][1:].tolist() == table[1:, 6].astype(int).tolist()
        assert item["segment"][0] == -1
        assert np.allclose(item["feat"], table[:, 3:6] / 255, atol=1e-6)
        assert np.allclose(item["coord"], table[:, :3], atol=1e-6)
        with pytest.raises(ValueError, match="Area_1"):
            S3DIS(str(tmp_path), areas=(3,), folder="all")

    def test_scannet_segmentation(self, tmp_path, table):
        (tmp_path / "val").mkdir()
        label = np.array([0, 19, -100, 255, 7] * 6, np.float64)
        colors = (table[:, 3:6] / 127.5 - 1).astype(np.float32)
        content = (table[:, :3].astype(np.float32), colors, label, label)
        torch.save(content, tmp_path / "val" / "scene0011_00_inst_nostuff.pth")
        data = ScanNetSegmentation(str(tmp_path), "val")
        item = data[0]
        assert item["sample_id"] == "scene0011_00"
        assert item["segment"].tolist() == [0, 19, -1, -1, 7] * 6  # both marks of points that do not count
        assert len(ScanNetSegmentation(str(tmp_path), "val", repeat=4)) == 4
        assert np.allclose(item["feat"], table[:, 3:6] / 255, atol=1e-5)
        nyu = (*content[:2], np.array([1, 39, 13] * 10))
        torch.save(nyu, tmp_path / "val" / "scene0011_00_inst_nostuff.pth")
        assert ScanNetSegmentation(str(tmp_path), "val", nyu_labels=True)[0]["segment"][:3].tolist() == [0, 19, -1]

    def test_semantickitti(self, tmp_path):
        for part in ("velodyne", "labels"):
            (tmp_path / "sequences" / "08" / part).mkdir(parents=True)
        points = rng().normal(size=(4, 4)).astype(np.float32)
        points.tofile(tmp_path / "sequences/08/velodyne/000000.bin")
        raw = np.array([10 | (7 << 16), 252, 40, 0], np.uint32)  # the upper half is the instance
        raw.tofile(tmp_path / "sequences/08/labels/000000.label")
        item = SemanticKITTI(str(tmp_path), "val")[0]
        assert item["segment"].tolist() == [1, 1, 9, 0]
        assert np.array_equal(item["coord"], points[:, :3])
        assert np.array_equal(item["feat"], points[:, 3:])  # the intensity
        assert item["sample_id"] == "08/000000"


class TestBoxes:
    def test_scannet_export(self, tmp_path):
        (tmp_path / "scannetv2_train.txt").write_text("scene0000_00\nscene0001_00\n")
        vertices = rng().random((40, 6)) * 255
        np.save(tmp_path / "scene0000_00_vert.npy", vertices)
        boxes = np.array([[1, 2, 3, 0.5, 0.6, 0.7, 5, 0], [1, 1, 1, 1, 1, 1, 9, 39]], float)
        boxes[:, -1] = [5, 39]  # NYU40: chair, garbage bin
        np.save(tmp_path / "scene0000_00_bbox.npy", boxes)
        data = ScanNetDetection(
            str(tmp_path), str(tmp_path / "scannetv2_train.txt"), color=True, height=True, max_boxes=4
        )
        assert data.missing == ["scene0001_00"]
        item = data[0]
        assert item["box_label"].tolist() == [2, 17, 0, 0]
        assert item["box_mask"].tolist() == [True, True, False, False]
        assert item["boxes"][0].tolist() == pytest.approx([1, 2, 3, 0.5, 0.6, 0.7, 0])
        assert item["feat"].shape == (40, 4)
        assert np.allclose(item["feat"][:, :3], vertices[:, 3:6] / 255, atol=1e-6)

    @pytest.mark.parametrize("color", [False, True])
    def test_height_is_measured_from_the_floor(self, color):
        """The floor is the 0.99th percentile of z, as in VoteNet: of 0.00, 0.01 ... 10.00 it is 0.099."""
        z = rng().permutation(1001) / 100
        cloud = {"coord": np.stack([z * 0 + 5, z * 0 - 3, z], axis=1).astype(np.float32)}
        found = with_features(cloud, rng().random((1001, 3)) if color else None, height=True)["feat"]
        assert found.shape == (1001, 1 + 3 * color)
        assert found.dtype == np.float32
        assert np.allclose(found[:, -1], z - 0.099, atol=1e-5)

    def test_boxes_of_unknown_kinds_are_left_out(self, tmp_path):
        (tmp_path / "list.txt").write_text("scene0000_00\n")
        np.save(tmp_path / "scene0000_00_vert.npy", rng().random((40, 6)))
        boxes = np.array([[1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 1, 1, 1, 36]], float)  # NYU40: a wall, a bathtub
        np.save(tmp_path / "scene0000_00_bbox.npy", boxes)
        item = ScanNetDetection(str(tmp_path), str(tmp_path / "list.txt"))[0]
        assert item["boxes"].tolist() == [[2, 2, 2, 1, 1, 1, 0]]
        assert item["box_label"].tolist() == [16]

    def test_mmdet3d(self, tmp_path):
        (tmp_path / "points").mkdir()
        points = (rng().random((10, 6)) * [1, 1, 1, 255, 255, 255]).astype(np.float32)
        points.tofile(tmp_path / "points" / "scene0000_00.bin")
        turn = np.eye(4)
        turn[:2, :2] = [[0, -1], [1, 0]]
        turn[:3, 3] = [10, 20, 30]
        info = {
            "point_cloud": {"num_features": 6, "lidar_idx": "scene0000_00"},
            "pts_path": "points/scene0000_00.bin",
            "annos": {
                "gt_num": 1, "name": np.array(["chair"]), "class": np.array([2]), "axis_align_matrix": turn,
                "gt_boxes_upright_depth": np.array([[0, 0, 0, 1, 2, 3.0]]),
            },
        }  # fmt: skip
        empty = {**info, "annos": {"gt_num": 0, "axis_align_matrix": turn}}
        with open(tmp_path / "scannet_infos_val.pkl", "wb") as f:
            pickle.dump([info, empty], f)
        data = MMDet3DIndoor(str(tmp_path), "scannet_infos_val.pkl")
        assert data[0]["boxes"].tolist() == [[0, 0, 0, 1, 2, 3, 0]]
        assert data[0]["box_label"].tolist() == [2]
        x, y, z = points[:, :3].T
        assert np.allclose(data[0]["coord"], np.stack([10 - y, 20 + x, 30 + z], axis=1), atol=1e-5)
        assert np.allclose(data[0]["feat"], points[:, 3:] / 255, atol=1e-6)
        assert data[1]["boxes"].shape == (0, 7)
        as_is = MMDet3DIndoor(str(tmp_path), "scannet_infos_val.pkl", align=False, color=False)[0]
        assert np.array_equal(as_is["coord"], points[:, :3])
        assert "feat" not in as_is
        info["annos"]["gt_boxes_upright_depth"] = np.array([[1, 2, 3, 1, 2, 3, 0.5]])
        (tmp_path / "turned.pkl").write_bytes(pickle.dumps([info]))
        assert MMDet3DIndoor(str(tmp_path), "turned.pkl")[0]["boxes"].tolist() == [[1, 2, 3, 1, 2, 3, 0.5]]
        turned = MMDet3DIndoor(str(tmp_path), "turned.pkl", clockwise=False)
        assert turned[0]["boxes"][0, 6] == -0.5

    def test_newer_mmdet3d(self, tmp_path):
        """A dict with `metainfo` and `data_list`: labels by name, yaw counter-clockwise, points below `points/`."""
        (tmp_path / "points").mkdir()
        points = rng().random((10, 6)).astype(np.float32)
        points.tofile(tmp_path / "points" / "000017.bin")
        instances = [
            {"bbox_3d": [1, 2, 3, 1, 2, 3, 0.5], "bbox_label_3d": 0},
            {"bbox_3d": [4, 5, 6, 1, 1, 1, 0], "bbox_label_3d": 1},
            {"bbox_3d": [4, 5, 6, 1, 1, 1, 0], "bbox_label_3d": 2},  # not one of the classes
        ]
        place = {"num_pts_feats": 6, "lidar_path": "000017.bin"}
        content = {
            "metainfo": {"categories": {"desk": 0, "bed": 1, "lamp": 2}, "dataset": "sunrgbd", "info_version": "1.1"},
            "data_list": [
                {"lidar_points": place, "instances": instances},
                {"lidar_points": place, "instances": [], "axis_align_matrix": np.eye(4).tolist()},
            ],
        }
        path = tmp_path / "sunrgbd_infos_train.pkl"
        path.write_bytes(pickle.dumps(content))
        data = MMDet3DIndoor(str(tmp_path), path.name, classes=SUNRGBD_CLASSES)
        assert data.sample_ids == ["000017", "000017"]
        assert data[0]["boxes"].tolist() == [[1, 2, 3, 1, 2, 3, -0.5], [4, 5, 6, 1, 1, 1, 0]]
        assert data[0]["box_label"].tolist() == [5, 0]  # desk and bed of SUN RGB-D here
        assert np.allclose(data[0]["coord"], points[:, :3])
        assert data[1]["boxes"].shape == (0, 7)
        content["metainfo"] = {"categories": {"bedd": 0}}
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=r"none of its classes is known here.*bedd.*bed"):
            MMDet3DIndoor(str(tmp_path), path.name, classes=SUNRGBD_CLASSES)

    def test_infos_that_would_run_code_are_refused(self, tmp_path):
        class Run:
            def __reduce__(self):
                return print, ("ran",)

        (tmp_path / "infos.pkl").write_bytes(pickle.dumps({"metainfo": {}, "data_list": [Run()]}))
        with pytest.raises(ValueError, match=r"asks for builtins\.print"):
            MMDet3DIndoor(str(tmp_path), "infos.pkl")

    def test_sunrgbd(self, tmp_path):
        folder = tmp_path / "sun_val"
        folder.mkdir()
        points = rng().random((9, 6))
        np.savez(folder / "000007_pc.npz", pc=points)
        np.save(folder / "000007_bbox.npy", np.array([[0, 1, 2, 0.5, 0.25, 1, -0.3, 9.0]]))
        item = SUNRGBD(str(tmp_path / "sun"), "val", color=True)[0]
        assert item["boxes"][0].tolist() == pytest.approx([0, 1, 2, 1, 0.5, 2, -0.3])
        assert item["box_label"].tolist() == [9]
        assert np.allclose(item["feat"], points[:, 3:], atol=1e-6)  # the export's colors are 0..1 already


class TestBrokenFiles:
    def test_reasons(self, modelnet):
        path = modelnet / "airplane" / "airplane_0001.txt"
        data = ModelNet40(str(modelnet), "train", test_mode=True)
        for content, reason in (
            ("1,2,3\n", "3 columns, expected 6"),
            ("nan,0,0,0,0,1\n0,0,0,0,0,1\n", "1 of 2 points have coordinates that are not finite"),
            ("a,b\n", "not a table of numbers"),
        ):
            path.write_text(content)
            item = data[0]
            assert item["skipped"] == "airplane_0001"
            assert reason in item["reason"]
        path.unlink()
        assert "no file at" in data[0]["reason"]
        assert data.broken == ["airplane_0001"]

    def test_training_replaces_and_is_reproducible(self, modelnet):
        (modelnet / "airplane" / "airplane_0001.txt").unlink()
        options = dict(transforms=[dict(type="random_points", num_points=7), dict(type="scale_shift")], seed=3)
        data = ModelNet40(str(modelnet), "train", **options)
        assert data[(0, 0)]["sample_id"] == "night_stand_0002"
        again = ModelNet40(str(modelnet), "train", **options)
        assert data[(2, 1)]["coord"].equal(again[(2, 1)]["coord"])
        assert not data[(2, 1)]["coord"].equal(data[(3, 1)]["coord"])

    def test_too_many(self):
        class Torn(CloudDataset):
            def load(self, index):
                raise CloudError("torn")

        data = Torn([str(i) for i in range(9)], None, test_mode=True)
        for i in range(5):
            assert data[i]["reason"] == "torn"
        with pytest.raises(TooManyBrokenFilesError, match="6 of 9"):
            data[5]

    @pytest.mark.parametrize(
        ("cloud", "reason"),
        [
            ({"coord": np.zeros((0, 3))}, "no points"),
            ({"coord": np.zeros((2, 3)), "segment": np.array([0, 7])}, "segment 0..7 is outside 0..2"),
            ({"coord": np.zeros((2, 3)), "segment": np.array([0])}, "1 rows of segment for 2 points"),
            ({"coord": np.zeros((2, 3)), "segment": np.array([-2, 0])}, "segment -2..0 is outside 0..2"),
            ({"coord": np.zeros((2, 3)), "label": 3}, "label 3..3 is outside 0..2"),
            ({"coord": np.zeros((2, 3)), "feat": np.zeros((3, 1))}, "3 rows of feat for 2 points"),
            ({"coord": np.zeros((2, 3)), "boxes": np.zeros((1, 7)), "box_label": np.array([0])}, "without extent"),
            (
                {"coord": np.zeros((2, 3)), "boxes": np.ones((1, 7)), "box_label": np.array([-1])},
                "box_label -1..-1 is outside 0..2",
            ),
        ],
    )
    def test_checks(self, cloud, reason):
        class One(CloudDataset):
            def load(self, index):
                return cloud

        assert reason in One(["x"], ["a", "b", "c"], test_mode=True)[0]["reason"]

    def test_padding(self):
        class One(CloudDataset):
            def load(self, index):
                return {"coord": np.ones((3, 3), np.float32), "segment": np.zeros(3, np.int64)}

        item = One(["x"], None, pad_to=5)[0]
        assert item["lengths"] == 3
        assert item["segment"].tolist() == [0, 0, 0, -1, -1]
        assert item["coord"].tolist() == [[1, 1, 1]] * 3 + [[0, 0, 0]] * 2
        assert item["coord_min"].tolist() == item["coord_max"].tolist() == [1, 1, 1]  # of the points, not the padding
        with pytest.raises(ValueError, match="more than pad_to=2"):
            One(["x"], None, pad_to=2)[0]

    def test_extents_boxes_and_their_mask(self):
        class One(CloudDataset):
            def load(self, index):
                coord = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
                return {"coord": coord, "boxes": np.ones((2, 7)), "box_label": np.array([2, 1])}

        item = One(["x"], ["a", "b", "c"], max_boxes=4)[0]
        assert item["coord_min"].tolist() == [1, -2, -6]
        assert item["coord_max"].tolist() == [4, 5, 3]
        assert item["boxes"].sum(1).tolist() == [7, 7, 0, 0]
        assert item["box_label"].tolist() == [2, 1, 0, 0]
        assert item["box_mask"].tolist() == [True, True, False, False]
        assert "lengths" not in item
        with pytest.raises(ValueError, match="2 boxes, more than max_boxes=1"):
            One(["x"], None, max_boxes=1)[0]

    def test_draws_of_tests_differ_by_cloud_and_by_seed_only(self):
        class Many(CloudDataset):
            def load(self, index):
                return {"coord": np.ones((3, 3), np.float32)}

        draw = lambda key, seed=0: Many(  # noqa: E731
            list("abc"), None, [dict(type="scale_shift")], test_mode=True, seed=seed
        )[key]["coord"]
        assert draw((0, 1)).equal(draw((7, 1)))
        assert not draw((0, 1)).equal(draw((0, 2)))
        assert not draw((0, 1)).equal(draw((0, 1), seed=1))

    def test_pickles_run_nothing(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (print, ("run",))

        (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ValueError, match=r"asks for builtins\.print"):
            load_pickle(tmp_path / "evil.pkl")

    def test_cache_follows_the_content(self, tmp_path):
        source, calls = tmp_path / "a.txt", []
        source.write_text("1")
        make = lambda: calls.append(1) or {"x": np.arange(3)}  # noqa: E731
        for _ in range(2):
            assert cached(tmp_path / "cache", source, make)["x"].tolist() == [0, 1, 2]
        assert len(calls) == 1
        next((tmp_path / "cache").glob("*.npz")).write_bytes(b"torn")
        assert cached(tmp_path / "cache", source, make)["x"].tolist() == [0, 1, 2]
        source.write_text("2")
        cached(tmp_path / "cache", source, make)
        assert len(calls) == 3


class TestFiles:
    coord = np.array([[0, 0, 0.5], [1, 2, 3]], np.float32)
    color = np.array([[255, 0, 51], [0, 0, 0]], np.uint8)

    def check(self, path, colors=True):
        cloud = read_cloud(path)
        assert np.allclose(cloud["coord"], self.coord, atol=1e-5)
        if colors:
            assert np.allclose(cloud["feat"], self.color / 255, atol=1e-3)

    def test_arrays(self, tmp_path):
        table = np.concatenate([self.coord, self.color], axis=1)
        np.save(tmp_path / "a.npy", table)
        np.savez(tmp_path / "b.npz", coord=self.coord, color=self.color)
        np.savez(tmp_path / "c.npz", pc=table)
        np.savetxt(tmp_path / "d.txt", table)
        for name in ("a.npy", "b.npz", "c.npz", "d.txt"):
            self.check(tmp_path / name)

    def test_scans_of_four_floats(self, tmp_path):
        np.concatenate([self.coord, [[7], [8]]], axis=1).astype(np.float32).tofile(tmp_path / "a.bin")
        self.check(tmp_path / "a.bin", colors=False)
        assert "feat" not in read_cloud(tmp_path / "a.bin")

    @pytest.mark.parametrize("top", [1, 255, 65535])
    def test_colors_of_any_range(self, top):
        unit = np.array([[1.0, 0.2, 0.0], [0.4, 0.6, 0.8]])
        assert np.allclose(unit_colors(unit * top), unit, atol=1e-6)

    def test_ply(self, tmp_path):
        plyfile = pytest.importorskip("plyfile")
        kinds = [(k, "f4") for k in "xyz"] + [(k, "u1") for k in ("red", "green", "blue")]
        rows = np.array([(*c, *k) for c, k in zip(self.coord, self.color, strict=True)], dtype=kinds)
        for text in (True, False):
            plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], text=text).write(str(tmp_path / "a.ply"))
            self.check(tmp_path / "a.ply")

    def test_las(self, tmp_path):
        laspy = pytest.importorskip("laspy")
        las = laspy.create(point_format=2, file_version="1.2")
        las.header.scales, las.header.offsets = [1e-4] * 3, [5e5] * 3
        las.x, las.y, las.z = self.coord.T.astype(float) + 5e5
        las.red, las.green, las.blue = self.color.T.astype(np.uint16) * 257
        las.write(str(tmp_path / "a.las"))
        cloud = read_cloud(tmp_path / "a.las")
        assert np.allclose(cloud["coord"], self.coord - self.coord.min(0), atol=1e-3)
        assert np.allclose(cloud["feat"], self.color / 255, atol=1e-3)

    def test_pcd(self, tmp_path):
        head = (
            "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 2\nHEIGHT 1\n"
        )
        packed = (self.color.astype(np.uint32) * [65536, 256, 1]).sum(1).astype(np.uint32).view(np.float32)
        rows = np.concatenate([self.coord, packed[:, None]], axis=1).astype(np.float32)
        (tmp_path / "a.pcd").write_bytes(f"{head}POINTS 2\nDATA binary\n".encode() + rows.tobytes())
        self.check(tmp_path / "a.pcd")
        text = "\n".join(" ".join(repr(float(v)) for v in row) for row in rows)
        (tmp_path / "b.pcd").write_text(f"{head}POINTS 2\nDATA ascii\n{text}\n")
        self.check(tmp_path / "b.pcd", colors=False)

    def test_what_cannot_be_read_says_so(self, tmp_path):
        (tmp_path / "a.docx").write_text("")
        with pytest.raises(CloudError, match=r"no reader for '\.docx'"):
            read_cloud(tmp_path / "a.docx")
        np.save(tmp_path / "a.npy", np.zeros((4, 2)))
        with pytest.raises(CloudError, match=r"shape \(4, 2\)"):
            read_cloud(tmp_path / "a.npy")
