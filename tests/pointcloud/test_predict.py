"""Prediction of files: results in the file's own place and order, one folder for many files, files others can open."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config

from pointcloud import predict
from pointcloud.datasets.base import CloudError
from pointcloud.datasets.files import ENDINGS, read_cloud
from pointcloud.detection import Detector
from pointcloud.formats.write import write_boxes_ply, write_labeled
from pointcloud.page import write_page
from pointcloud.segmenter import Segmenter
from xmodal.engine.inputs import expand

MAP = np.array([665187.5, 5648349.25, 241.75])
RNG = np.random.default_rng(0)
ROOM = np.c_[np.round(RNG.uniform(0, 4, (4000, 3)) * 64) / 64, RNG.integers(0, 256, (4000, 3))]
NAMES = ["low", "high"]


class HeightSegmenter(Segmenter):
    """Points above the middle of a crop are `high`."""

    def __init__(self, feat_dim=3):
        super().__init__(2, 3 + feat_dim, eval_voxel=0.1, eval_points=100_000, smallest=16)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, coord, feat, sizes):
        high = (coord[:, 2] > coord[:, 2].mean()).float()
        return torch.stack([1 - high, high], dim=1)


class MeanDetector(Detector):
    """One box around the mean of the points, 1 x 2 x 3, turned by 0.3; one that scores low."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.feat_dim, self.min_score, self.show_score = 0, 0.05, 0.3

    def predict(self, coord):
        center = coord[0].mean(0).tolist()
        boxes = np.array([[*center, 1, 2, 3, 0.3], [*center, 1, 1, 1, 0]], np.float32)
        return [{"boxes": boxes, "box_label": np.array([1, 0]), "scores": np.array([0.9, 0.1])}]


def model_of(network):
    return type("Model", (), {"network": network})()


def config(*transforms):
    return Config({"test_dataloader": {"dataset": {"transforms": [{"type": t} for t in transforms]}}})


def write_las(path, xyz, color, classes):
    import laspy

    las = laspy.create(point_format=3, file_version="1.2")
    las.header.scales, las.header.offsets = [0.001] * 3, np.floor(xyz.min(0))
    las.x, las.y, las.z = xyz.T
    for i, name in enumerate(("red", "green", "blue")):
        setattr(las, name, color[:, i].astype("u2") * 257)
    las.intensity, las.classification = np.arange(len(xyz)), classes
    las.write(str(path))


class TestBoxes:
    @pytest.mark.parametrize(
        "transforms", [(), ("center_floor",), ("to_origin", "unit_ball"), ("unit_ball", "center_floor")]
    )
    def test_boxes_are_where_the_file_is(self, tmp_path, transforms):
        scale = 1.0
        if "unit_ball" in transforms:
            scale = float(np.linalg.norm(ROOM[:, :3] - ROOM[:, :3].mean(0), axis=1).max())
        for name, shift in (("near.xyz", np.array([100, 50, 7])), ("far.xyz", MAP)):
            points = ROOM[:, :3] + shift
            np.savetxt(tmp_path / name, points, fmt="%.6f")
            row = predict.predict_file(
                model_of(MeanDetector()), NAMES, config(*transforms), str(tmp_path / name), tmp_path / "out"
            )
            assert len(row["boxes"]) == 1
            box = np.array(row["boxes"][0]["box"])
            assert np.abs(box[:3] - points.mean(0)).max() < 1e-3
            assert box[3:] == pytest.approx([scale, 2 * scale, 3 * scale, 0.3], rel=1e-4)
            text = json.loads((tmp_path / "out" / name).with_suffix(".json").read_text())
            assert text["coordinates"]["unit"] == "m"
            assert "clockwise" in text["coordinates"]["box"]

    def test_corners_are_in_the_files_own_unit_and_axes(self, tmp_path):
        """A room in mm with y up: the box's height of 3 m lies along y."""
        points = (ROOM[:, [0, 2, 1]] * [1, 1, -1] + [0, 0, 4]) * 1000
        np.savetxt(tmp_path / "a.xyz", points, fmt="%.3f")
        model = model_of(MeanDetector())
        row = predict.predict_file(model, NAMES, config(), str(tmp_path / "a.xyz"), tmp_path, unit="mm", up="y")
        corners = np.array(row["boxes"][0]["corners"])
        assert corners.mean(0) == pytest.approx(points.mean(0), abs=1)
        assert np.ptp(corners[:, 1]) == pytest.approx(3000, abs=1)
        assert row["boxes"][0]["box"][3:6] == pytest.approx([1, 2, 3])
        assert row["coordinates"]["file"] == {"unit": "mm", "up": "y"}

    def test_a_mesh_of_boxes_that_programs_open(self, tmp_path):
        trimesh = pytest.importorskip("trimesh")
        np.savetxt(tmp_path / "a.xyz", ROOM[:, :3] + MAP, fmt="%.6f")
        row = predict.predict_file(model_of(MeanDetector()), NAMES, config(), str(tmp_path / "a.xyz"), tmp_path)
        mesh = trimesh.load(row["mesh"], process=True)
        assert mesh.volume == pytest.approx(6, abs=1e-3)  # positive: sides face outward
        assert mesh.is_watertight
        assert mesh.centroid == pytest.approx((ROOM[:, :3] + MAP).mean(0), abs=1e-2)
        write_boxes_ply(tmp_path / "none.ply", np.zeros((0, 8, 3)), [])
        assert b"element vertex 0" in (tmp_path / "none.ply").read_bytes()

    def test_min_score_shows_more(self, tmp_path):
        network = MeanDetector()
        np.savetxt(tmp_path / "a.xyz", ROOM[:, :3])
        cfg = Config({"test_dataloader": {"dataset": {"transforms": [{"type": "random_points", "num_points": 1000}]}}})
        row = predict.predict_file(model_of(network), NAMES, cfg, str(tmp_path / "a.xyz"), tmp_path)
        assert "1 boxes with a score below 0.3 are hidden: see --min-score" in row["notes"]
        assert "the network was given 1,000 of 4,000 points" in row["notes"]
        assert "1,000 of 4,000 points" in (tmp_path / "a.html").read_text()
        with predict.scores_from(network, 0.0):
            row = predict.predict_file(model_of(network), NAMES, config(), str(tmp_path / "a.xyz"), tmp_path)
        assert [b["score"] for b in row["boxes"]] == [0.9, 0.1]
        assert (network.show_score, network.min_score) == (0.3, 0.05)
        with predict.scores_from(network, None):
            assert network.show_score == 0.3


class TestSegments:
    truth = (ROOM[:, 2] > ROOM[:, 2].mean()).astype(int)

    def agree(self, segment):
        return (segment == self.truth).mean() > 0.97  # one point per voxel in a part: the middle moves a little

    def test_las_gets_the_classes_and_keeps_its_own_columns(self, tmp_path):
        import laspy

        for ending in (".las", ".laz"):
            path = tmp_path / f"a{ending}"
            write_las(path, ROOM[:, :3] + MAP, ROOM[:, 3:], np.full(4000, 7))
            out = tmp_path / "out"
            row = predict.predict_file(model_of(HeightSegmenter()), NAMES, config(), str(path), out, name=ending[1:])
            assert row["labeled"].endswith(f"_classes{ending}")
            before, after = laspy.read(path), laspy.read(row["labeled"])
            segment = np.load(row["segment"])
            assert self.agree(segment)
            assert np.array_equal(after.classification, segment)
            assert np.array_equal(after["prediction"], segment)
            assert set(after["original_class"].tolist()) == {7}
            for name in ("X", "Y", "Z", "red", "green", "blue", "intensity"):
                assert np.array_equal(before[name], after[name]), name
            assert np.array_equal(before.header.offsets, after.header.offsets)
        again = predict.predict_file(model_of(HeightSegmenter()), NAMES, config(), row["labeled"], tmp_path / "again")
        assert again["points"] == 4000  # a result can be predicted again

    def test_ply_keeps_order_place_colors_and_dropped_points(self, tmp_path):
        from plyfile import PlyData

        table = np.c_[ROOM[:, :3] + MAP, ROOM[:, 3:]]
        table[5, 0] = np.nan
        np.savetxt(tmp_path / "a.txt", table, fmt="%.4f")
        row = predict.predict_file(model_of(HeightSegmenter()), NAMES, config(), str(tmp_path / "a.txt"), tmp_path)
        segment = np.load(row["segment"])
        assert segment.shape == (4000,)
        assert segment[5] == -1
        data = PlyData.read(row["labeled"])
        vertex = data["vertex"].data
        assert np.array_equal(vertex["label"], segment)
        rest = np.arange(4000) != 5
        assert np.abs(np.stack([vertex[k] for k in "xyz"], 1) - table[:, :3])[rest].max() < 1e-3
        assert np.array_equal(np.stack([vertex[k] for k in ("red", "green", "blue")], 1)[rest], ROOM[rest, 3:])
        assert "label 1 high" in data.comments
        assert row["points"] == 4000
        assert any("1 of 4000" in note for note in row["notes"])

    def test_large_files_are_written_in_pieces(self, tmp_path, monkeypatch):
        from plyfile import PlyData

        from pointcloud.formats import write

        monkeypatch.setattr(write, "PIECE", 1000)
        table = np.c_[ROOM[:, :3] + MAP]
        table[::7] = np.nan
        np.save(tmp_path / "a.npy", table)
        cloud = read_cloud(tmp_path / "a.npy")
        label = np.arange(len(cloud["coord"])) % 100
        files = write_labeled(tmp_path / "a", cloud, label, NAMES)
        vertex = PlyData.read(files["labeled"])["vertex"].data
        kept = np.isfinite(table[:, 0])
        assert np.array_equal(vertex["label"][kept], label)
        assert np.abs(vertex["y"] - table[:, 1])[kept].max() < 1e-3

    def test_small_things_are_explained(self, tmp_path):
        np.savetxt(tmp_path / "mug.xyz", np.c_[ROOM[:, :3] * 0.03, ROOM[:, 3:]])
        with pytest.raises(CloudError, match=r"0\.12 x 0\.12 x 0\.12 m.*8 voxels of 0\.1 m.*needs 16.*--unit"):
            predict.predict_file(model_of(HeightSegmenter()), NAMES, config(), str(tmp_path / "mug.xyz"), tmp_path)


def test_scores_that_are_not_finite_are_no_answer(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", ROOM)
    broken = HeightSegmenter()
    broken.forward = lambda coord, feat, sizes: torch.full((len(coord), 2), torch.nan)
    boxes = MeanDetector()
    boxes.predict = lambda coord: [
        {"boxes": np.full((1, 7), np.nan), "box_label": np.array([0]), "scores": np.array([np.nan])}
    ]
    for network in (broken, boxes):
        with pytest.raises(CloudError, match="scores are not finite"):
            predict.predict_file(model_of(network), NAMES, config(), str(tmp_path / "a.npy"), tmp_path)


def test_bin_and_features_are_those_of_the_data_set(tmp_path):
    """Numbers that fit 4, 5 and 6 columns: with a config of SemanticKITTI they are 4, intensity a feature."""
    table = RNG.normal(size=(600, 4)).astype("<f4")
    table.tofile(tmp_path / "a.bin")
    with pytest.raises(CloudError, match="number of columns is not clear"):
        predict.predict_file(model_of(MeanDetector()), NAMES, config(), str(tmp_path / "a.bin"), tmp_path)
    cfg = Config({"test_dataloader": {"dataset": {"type": "semantickitti"}}})
    row = predict.predict_file(model_of(MeanDetector()), NAMES, cfg, str(tmp_path / "a.bin"), tmp_path)
    assert row["points"] == 600
    assert row["boxes"][0]["box"][:3] == pytest.approx(table[:, :3].mean(0), abs=1e-4)
    cloud = read_cloud(tmp_path / "a.bin", columns=["x", "y", "z", "intensity"])
    fitted = predict.fit_features(cloud, 1, predict.feature_names(cfg))
    assert np.array_equal(fitted["feat"][:, 0], table[:, 3])
    normals = {"type": "modelnet40", "normals": True}
    assert predict.feature_names(Config({"test_dataloader": {"dataset": normals}})) == ("normal",)
    both = {"type": "sunrgbd", "color": True, "height": True}
    assert predict.feature_names(Config({"test_dataloader": {"dataset": both}})) == ("color", "height")


class TestManyFiles:
    @pytest.fixture
    def tool(self, monkeypatch, tmp_path):
        monkeypatch.setattr(predict, "load_model", lambda cfg, checkpoint: (model_of(HeightSegmenter()), NAMES))
        monkeypatch.chdir(tmp_path)

        def predict_files(*named, out="out"):
            found = expand(named, ENDINGS, out)
            files, names = [entry.path for entry in found], [entry.name for entry in found]
            return list(predict.CloudPredictor(config(), "-").stream(files, out=out, names=names))

        return predict_files

    def test_one_bad_file_never_stops_the_rest(self, tool, tmp_path):
        np.save("good.npy", ROOM)
        np.save("plain.npy", ROOM[:, :3])
        np.save("small.npy", ROOM * ([0.01] * 3 + [1] * 3))
        (tmp_path / "torn.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:500])
        rows = tool("plain.npy", "small.npy", "torn.npy", "missing.npy", "a.docx", "good.npy")
        assert ["error" in row for row in rows] == [True] * 5 + [False]
        for row, said in zip(
            rows, ("no color", "--unit", "torn.npy", "no file at", "no reader for '.docx'"), strict=False
        ):
            assert said in row["error"]

    def test_results_keep_the_path_and_never_collide(self, tool, tmp_path):
        from plyfile import PlyData, PlyElement

        for folder in ("scans/a", "scans/b"):
            (tmp_path / folder).mkdir(parents=True)
            np.save(f"{folder}/x.npy", ROOM)
        np.savetxt("scans/a/x.txt", ROOM)
        vertex = np.zeros(4000, [(k, "f4") for k in "xyz"] + [(k, "u1") for k in ("red", "green", "blue")])
        for i, k in enumerate(vertex.dtype.names):
            vertex[k] = ROOM[:, i]
        PlyData([PlyElement.describe(vertex, "vertex")]).write("scans/b/y.ply")
        rows = tool("scans")
        pages = [row["page"] for row in rows]
        assert len(set(pages)) == 4
        assert {"out/a/x.npy.html", "out/a/x.txt.html", "out/b/x.html", "out/b/y.html"} == set(pages)
        rows = tool("scans/b/*.npy", "scans/b/y.ply")
        assert [row["page"] for row in rows] == ["out/scans/b/x.html", "out/scans/b/y.html"]
        (tmp_path / "list.txt").write_text("scans/a/x.npy\nscans/b/x.npy\n")
        assert len(tool("list.txt")) == 2
        assert len(tool("@list.txt")) == 2

    def test_a_second_run_leaves_the_results_of_other_files_alone(self, tool, tmp_path):
        np.save("x.npy", ROOM)
        np.savetxt("x.txt", ROOM)
        assert [tool("x.npy")[0]["page"], tool("x.txt")[0]["page"], tool("x.npy")[0]["page"]] == [
            "out/x.html", "out/x.txt.html", "out/x.html",
        ]  # fmt: skip

    def test_results_are_no_input(self, tool, tmp_path):
        np.save("x.npy", ROOM)
        for out in ("out", "."):
            for _ in range(2):
                assert [row["file"] for row in tool(".", out=out)] == ["x.npy"]

    def test_nothing_to_predict_is_an_error(self, tool):
        with pytest.raises(ValueError, match="no file matches"):
            tool("none/*.ply")


class TestPage:
    def test_a_million_points_with_colors_and_classes(self, tmp_path):
        count = 1_000_000
        coord = RNG.uniform(0, 5, (count, 3)).astype(np.float32)
        feat = RNG.random((count, 3)).astype(np.float32)
        page = write_page(tmp_path / "a.html", coord, NAMES, segment=np.arange(count) % 2, feat=feat)
        text = page.read_text()
        assert page.stat().st_size < 10e6
        for said in ("x (m)", "z, up (m)", "60,000 of 1,000,000 points are shown", "scene2", "meters, z up"):
            assert said in text

    def test_offset_and_notes_are_named(self, tmp_path):
        np.savetxt(tmp_path / "a.xyz", ROOM[:, :3] + MAP, fmt="%.3f")
        cloud = read_cloud(tmp_path / "a.xyz")
        page = write_page(tmp_path / "a.html", cloud["coord"], frame=cloud["frame"], notes=["colors <b> were guessed"])
        text = page.read_text()
        assert "minus 665187.5" in text
        assert "were guessed" in text
        assert "<b> were" not in text


def test_json_of_the_tool(monkeypatch, capsys):
    """The options reach the files, and lines about them do not reach standard output."""
    from tools import predict as tool
    from xmodal.use import loaded

    seen = {}

    class Predictor:
        def __init__(self, cfg, checkpoint, amp):
            seen["amp"] = amp

        def stream(self, files, **options):
            seen.update(options, files=files)
            return iter([{"file": files[0], "page": "p.html", "boxes": []}])

    monkeypatch.setattr(loaded, "CloudPredictor", Predictor)
    monkeypatch.setattr(loaded, "find_file", lambda name, said: name)
    words = ["configs/pointcloud/epcl_tiny-clip_2k_rooms-det.py", "x.pth", "a.ply", "--json", "--columns", "x,y,z,i"]
    assert tool.main([*words, "--min-score", "0.1", "--unit", "mm", "--up", "y", "--amp", "bf16", "--top", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"file": "a.ply", "page": "p.html", "boxes": []}]
    assert seen == {
        "files": ["a.ply"], "columns": ["x", "y", "z", "i"], "min_score": 0.1, "unit": "mm", "up": "y", "amp": "bf16",
        "top": 3, "out": "predictions", "names": ["a"], "bars": True,
    }  # fmt: skip
    assert tool.main([*words[:3], "--unit", "yard"]) == 2
    assert "unit 'yard'" in capsys.readouterr().err
