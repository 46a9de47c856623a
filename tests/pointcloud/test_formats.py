"""Readers of cloud files against files written by other libraries or byte by byte."""

import struct
from pathlib import Path

import numpy as np
import pytest

from pointcloud.datasets.base import CloudError
from pointcloud.datasets.files import ENDINGS, in_place, read_cloud, read_scan

MAP = np.array([665187.52, 5648349.89, 241.76])  # a place in UTM
RGB = np.array([[255, 0, 0], [0, 255, 0], [12, 34, 56]], np.uint8)
XYZ = np.array([[0, 0, 0.5], [1, 2, 3], [-4, 5, 6.25]], np.float32)


def colors_of(cloud):
    return (cloud["feat"] * 255).round().astype(int).tolist()


class TestCoordinates:
    """A grid of 1 cm in UTM: float32 alone would have steps of 0.5 m."""

    points = MAP + np.c_[np.arange(50) % 7, np.arange(50), np.arange(50) % 3] * 0.01

    def write_all(self, folder):
        import laspy
        from plyfile import PlyData, PlyElement

        trimesh = pytest.importorskip("trimesh")
        x = self.points
        np.savetxt(folder / "a.xyz", x, fmt="%.3f")
        np.savetxt(folder / "a.csv", x, fmt="%.3f", delimiter=",", header="x,y,z", comments="")
        np.savetxt(folder / "a.pts", x, fmt="%.3f", header="50", comments="")
        np.save(folder / "a.npy", x)
        np.savez(folder / "a.npz", coord=x)
        vertex = np.zeros(50, [(k, "f8") for k in "xyz"])
        for i, k in enumerate("xyz"):
            vertex[k] = x[:, i]
        PlyData([PlyElement.describe(vertex, "vertex")]).write(str(folder / "a.ply"))
        head = "VERSION 0.7\nFIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nWIDTH 50\nHEIGHT 1\nPOINTS 50\nDATA binary\n"
        (folder / "a.pcd").write_bytes(head.encode() + x.astype("<f8").tobytes())
        las = laspy.create(point_format=6, file_version="1.4")
        las.header.scales, las.header.offsets = [0.001] * 3, np.floor(MAP)
        las.x, las.y, las.z = x.T
        las.write(str(folder / "a.las"))
        las.write(str(folder / "a.laz"))
        trimesh.PointCloud(x).export(folder / "b.ply")
        return sorted(p.name for p in folder.iterdir())

    def test_every_format_keeps_a_centimeter_on_the_map(self, tmp_path):
        names = self.write_all(tmp_path)
        assert len(names) == 10
        for name in names:
            cloud = read_cloud(tmp_path / name)
            assert cloud["coord"].dtype == np.float32
            tolerance = 0.3 if name == "b.ply" else 6e-4  # trimesh writes float32
            assert np.abs(cloud["frame"].to_file(cloud["coord"]) - self.points).max() < tolerance, name
            assert np.abs(cloud["coord"]).max() < 1000, name

    def test_text_has_more_digits_than_the_type_of_its_header(self, tmp_path):
        rows = "\n".join(" ".join(f"{v:.3f}" for v in row) for row in self.points) + "\n"
        head = "ply\nformat ascii 1.0\nelement vertex 50\n" + "".join(f"property float {k}\n" for k in "xyz")
        (tmp_path / "a.ply").write_text(f"{head}end_header\n{rows}")
        head = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 50\nHEIGHT 1\nPOINTS 50\nDATA ascii\n"
        (tmp_path / "a.pcd").write_text(head + rows)
        for name in ("a.ply", "a.pcd"):
            cloud = read_cloud(tmp_path / name)
            assert np.abs(cloud["frame"].to_file(cloud["coord"]) - self.points).max() < 6e-4, name

    def test_small_coordinates_stay_as_they_are(self, tmp_path):
        np.save(tmp_path / "a.npy", XYZ)
        cloud = read_cloud(tmp_path / "a.npy")
        assert cloud["coord"].tolist() == XYZ.tolist()
        assert not cloud["offset"].any()

    def test_one_stray_point_does_not_blur_the_others(self, tmp_path):
        """A scan on the map with a point at 0, as programs that append leave it."""
        np.savetxt(tmp_path / "a.xyz", np.r_[self.points, np.zeros((1, 3))], fmt="%.3f")
        cloud = read_cloud(tmp_path / "a.xyz")
        back = cloud["frame"].to_file(cloud["coord"])
        assert np.abs(back[:-1] - self.points).max() < 6e-4
        assert np.abs(back[-1]).max() < 1

    def test_a_small_object_far_away_is_shifted_too(self, tmp_path):
        x = np.array([1000, 2000, 10.0]) + np.random.default_rng(0).random((1_000, 3)) * 0.01
        np.save(tmp_path / "a.npy", x)
        cloud = read_cloud(tmp_path / "a.npy")
        mean = cloud["coord"].mean(0, dtype=np.float64) + cloud["offset"]
        assert np.abs(mean - x.mean(0)).max() < 1e-4 * 0.01


class TestUnitsAndAxes:
    def test_millimeters_with_y_up(self, tmp_path):
        file = np.array([[1000, 2000, 3000], [0, 500, 0]], float)
        np.savetxt(tmp_path / "a.xyz", file)
        cloud = read_cloud(tmp_path / "a.xyz", unit="mm", up="y")
        assert cloud["coord"].tolist() == [[1, -3, 2], [0, 0, 0.5]]  # y becomes z, z becomes -y
        assert np.allclose(cloud["frame"].to_file(cloud["coord"]), file)

    @pytest.mark.parametrize(
        ("up", "top"), [("x", [5, 0, 0]), ("y", [0, 5, 0]), ("-y", [0, -5, 0]), ("-z", [0, 0, -5])]
    )
    def test_the_axis_named_is_up(self, tmp_path, up, top):
        np.savetxt(tmp_path / "a.xyz", [[0, 0, 0], top])
        cloud = read_cloud(tmp_path / "a.xyz", up=up)
        assert cloud["coord"].tolist() == [[0, 0, 0], [0, 0, 5]]
        assert np.linalg.det(cloud["frame"].turn) == pytest.approx(1)  # a turn, no mirror

    def test_unknown_ones_are_named(self, tmp_path):
        np.savetxt(tmp_path / "a.xyz", XYZ)
        with pytest.raises(ValueError, match=r"unit 'yard': choose one of m, cm"):
            read_cloud(tmp_path / "a.xyz", unit="yard")
        with pytest.raises(ValueError, match=r"up 'w': choose one of z, y"):
            read_cloud(tmp_path / "a.xyz", up="w")


class TestPCD:
    def write(self, path, fields, rows, form="binary", height=1):
        """`fields`: (name, SIZE, TYPE, COUNT); `rows`: bytes of the points, or lines."""
        lines = ["# .PCD v0.7", "VERSION 0.7"]
        for key, i in (("FIELDS", 0), ("SIZE", 1), ("TYPE", 2), ("COUNT", 3)):
            lines.append(" ".join([key, *(str(f[i]) for f in fields)]))
        lines += [f"WIDTH {len(rows) // height}", f"HEIGHT {height}", "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {len(rows)}"]
        body = "\n".join(rows).encode() + b"\n" if form == "ascii" else b"".join(rows)
        path.write_bytes("\n".join([*lines, f"DATA {form}"]).encode() + b"\n" + body)

    @pytest.mark.parametrize("alpha", [0, 64, 255])
    @pytest.mark.parametrize(("name", "kind"), [("rgb", "F"), ("rgb", "U"), ("rgba", "U"), ("rgba", "I")])
    def test_packed_colors(self, tmp_path, name, kind, alpha):
        packed = [(alpha << 24) | (int(r) << 16) | (int(g) << 8) | int(b) for r, g, b in RGB]
        fields = [("x", 4, "F", 1), ("y", 4, "F", 1), ("z", 4, "F", 1), (name, 4, kind, 1)]
        rows = [struct.pack("<fffI", *p, c) for p, c in zip(XYZ, packed, strict=True)]
        self.write(tmp_path / "a.pcd", fields, rows)
        cloud = read_cloud(tmp_path / "a.pcd")
        assert cloud["coord"].tolist() == XYZ.tolist()
        assert colors_of(cloud) == RGB.tolist()
        if kind == "U":
            lines = [f"{p[0]} {p[1]} {p[2]} {c}" for p, c in zip(XYZ, packed, strict=True)]
            self.write(tmp_path / "a.pcd", fields, lines, "ascii")
            assert colors_of(read_cloud(tmp_path / "a.pcd")) == RGB.tolist()

    def test_padding_counts_and_pixels_without_a_return(self, tmp_path):
        fields = [("x", 4, "F", 1), ("y", 4, "F", 1), ("z", 4, "F", 1), ("_", 1, "U", 4), ("fpfh", 4, "F", 3)]
        fields += [("intensity", 2, "U", 1), ("_", 1, "U", 2)]
        points = [*XYZ.tolist(), [np.nan] * 3]
        rows = [struct.pack("<fff4x3fH2x", *p, 7, 8, 9, 100 + i) for i, p in enumerate(points[::-1])]
        self.write(tmp_path / "a.pcd", fields, rows, height=2)
        cloud = read_cloud(tmp_path / "a.pcd")
        assert cloud["coord"].tolist() == XYZ[::-1].tolist()
        assert cloud["intensity"].tolist() == [101, 102, 103]
        assert cloud["kept"].tolist() == [False, True, True, True]
        assert any("1 of 4 points" in note for note in cloud["notes"])
        assert in_place(cloud, np.array([5, 6, 7]), -1).tolist() == [-1, 5, 6, 7]

    def test_compressed(self, tmp_path):
        """A stream with literals, a copy of what came before, and one that overlaps itself."""
        x = np.tile(np.array([1.5, -2.0], "<f4"), 200)
        rows = np.stack([x, x, np.zeros_like(x)], axis=1)
        raw = rows.T.tobytes()  # field after field
        # 8 literal bytes, then copies of 255 + 9 bytes from 8 bytes back (they overlap what they make)
        literal = bytes([7]) + raw[:8]
        left, stream = 2 * 1600 - 8, literal
        while left:
            size = min(left, 264)
            size -= 3 if 0 < left - size < 3 else 0
            stream += bytes([7 << 5, size - 9, 7]) if size >= 9 else bytes([(size - 2) << 5, 7])
            left -= size
        stream += bytes([31]) + bytes(32)  # zeros
        left = 1600 - 32
        while left:
            size = min(left, 264)
            size -= 3 if 0 < left - size < 3 else 0
            stream += bytes([7 << 5, size - 9, 0]) if size >= 9 else bytes([(size - 2) << 5, 0])
            left -= size
        head = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 400\nHEIGHT 1\nPOINTS 400\nDATA binary_compressed\n"
        path = tmp_path / "a.pcd"
        path.write_bytes(head.encode() + struct.pack("<II", len(stream), len(raw)) + stream)
        assert np.array_equal(read_cloud(path)["coord"], rows)
        path.write_bytes(head.encode() + struct.pack("<II", len(stream), len(raw)) + stream[:-3])
        with pytest.raises(CloudError, match=r"a\.pcd: .* compressed bytes"):
            read_cloud(path)

    def test_damage_is_named(self, tmp_path):
        fields = [("x", 4, "F", 1), ("y", 4, "F", 1), ("z", 4, "F", 1)]
        rows = [struct.pack("<fff", *p) for p in XYZ]
        self.write(tmp_path / "a.pcd", fields, rows)
        whole = (tmp_path / "a.pcd").read_bytes()
        for content, said in (
            (whole[:-5], "2 of 3 points"),
            (whole.replace(b"SIZE 4", b"SIZE q"), "SIZE q"),
            (whole.replace(b"DATA binary", b"DATA zipped"), "DATA zipped"),
            (whole.replace(b"POINTS 3", b"POINTS 99999999999"), "99999999999 points"),
            (b"<html>not found</html>\n", "not a .pcd file"),
        ):
            (tmp_path / "b.pcd").write_bytes(content)
            with pytest.raises(CloudError, match=rf"b\.pcd.*{said}"):
                read_cloud(tmp_path / "b.pcd")


class TestPLY:
    def write(self, path, names, kinds, columns, text=False, **more):
        from plyfile import PlyData, PlyElement

        rows = np.zeros(len(columns), list(zip(names, kinds, strict=True)))
        for i, name in enumerate(names):
            rows[name] = [c[i] for c in columns]
        PlyData([PlyElement.describe(rows, "vertex")], text=text, **more).write(str(path))

    RANGES = (("u1", 1, 1 / 255), ("f4", 1, 1), ("u2", 65535, 1), ("u2", 255, 255 / 65535))
    NAMES = ("red green blue", "r g b", "diffuse_red diffuse_green diffuse_blue", "Red Green Blue")

    @pytest.mark.parametrize("names", NAMES)
    @pytest.mark.parametrize("order", ["text", "<", ">"])
    def test_colors_by_any_name_and_encoding(self, tmp_path, names, order):
        columns = [(*p, *c) for p, c in zip(XYZ, RGB, strict=True)]
        more = {"text": True} if order == "text" else {"byte_order": order}
        self.write(tmp_path / "a.ply", ["x", "y", "z", *names.split()], ["f4"] * 3 + ["u1"] * 3, columns, **more)
        cloud = read_cloud(tmp_path / "a.ply")
        assert cloud["coord"].tolist() == XYZ.tolist()
        assert colors_of(cloud) == RGB.tolist()

    @pytest.mark.parametrize(("kind", "value", "expected"), RANGES)
    def test_the_type_tells_the_range_of_colors(self, tmp_path, kind, value, expected):
        columns = [(*p, value, 0, 0) for p in XYZ]
        self.write(tmp_path / "a.ply", ["x", "y", "z", "red", "green", "blue"], ["f4"] * 3 + [kind] * 3, columns)
        assert read_cloud(tmp_path / "a.ply")["feat"][0, 0] == pytest.approx(expected)

    def test_normals_intensity_and_lists_beside(self, tmp_path):
        from plyfile import PlyData, PlyElement

        rows = np.zeros(3, [(k, "f4") for k in ("x", "y", "z", "nx", "ny", "nz", "scalar_Intensity")] + [("tags", "O")])
        rows["x"], rows["nz"], rows["scalar_Intensity"] = [1, 2, 3], 1, [7, 8, 9]
        rows["tags"] = [np.array([1, 2]), np.array([], int), np.array([3])]
        PlyData([PlyElement.describe(rows, "vertex", val_types={"tags": "i4"})]).write(str(tmp_path / "a.ply"))
        cloud = read_cloud(tmp_path / "a.ply")
        assert cloud["normal"].tolist() == [[0, 0, 1]] * 3
        assert cloud["intensity"].tolist() == [7, 8, 9]
        assert "feat" not in cloud

    def test_a_header_that_promises_too_much(self, tmp_path):
        head = "ply\nformat ascii 1.0\nelement vertex 10000000000000\n"
        head += "".join(f"property float {k}\n" for k in "xyz") + "end_header\n"
        (tmp_path / "a.ply").write_text(head)
        with pytest.raises(CloudError, match=r"a\.ply: the header says 10000000000000 of vertex"):
            read_cloud(tmp_path / "a.ply")


class TestLAS:
    def write(self, path, form=3, version="1.2", **columns):
        import laspy

        las = laspy.create(point_format=form, file_version=version)
        las.header.scales, las.header.offsets = [0.001] * 3, np.floor(MAP)
        las.x, las.y, las.z = (XYZ + MAP).T
        for name, values in columns.items():
            setattr(las, name, values)
        las.write(str(path))

    @pytest.mark.parametrize("ending", [".las", ".laz"])
    @pytest.mark.parametrize(("version", "form"), [("1.1", 1), ("1.2", 3), ("1.3", 5), ("1.4", 7)])
    def test_versions(self, tmp_path, ending, version, form):
        extra = {} if form == 1 else {k: RGB[:, i].astype("u2") * 257 for i, k in enumerate(("red", "green", "blue"))}
        path = tmp_path / f"a{ending}"
        self.write(path, form, version, intensity=[10, 20, 65535], classification=[2, 6, 1], **extra)
        cloud = read_cloud(path)
        assert np.abs(cloud["frame"].to_file(cloud["coord"]) - (XYZ + MAP)).max() < 6e-4
        assert cloud["intensity"].tolist() == [10, 20, 65535]
        assert cloud["classification"].tolist() == [2, 6, 1]
        if form > 1:
            assert colors_of(cloud) == RGB.tolist()

    def test_version_1_0_and_1_5(self, tmp_path):
        self.write(tmp_path / "a.las", 1, "1.1", intensity=[1, 2, 3])
        raw = bytearray((tmp_path / "a.las").read_bytes())
        raw[25] = 0  # 1.0 has the header of 1.1
        (tmp_path / "a.las").write_bytes(raw)
        self.write(tmp_path / "b.laz", 6, "1.5", intensity=[1, 2, 3])
        for name in ("a.las", "b.laz"):
            cloud = read_cloud(tmp_path / name)
            assert np.abs(cloud["frame"].to_file(cloud["coord"]) - (XYZ + MAP)).max() < 6e-4
            assert cloud["intensity"].tolist() == [1, 2, 3]

    def test_colors_of_8_bits_and_none(self, tmp_path):
        self.write(tmp_path / "a.las", **{k: RGB[:, i].astype("u2") for i, k in enumerate(("red", "green", "blue"))})
        cloud = read_cloud(tmp_path / "a.las")
        assert colors_of(cloud) == RGB.tolist()
        assert any("8 bits" in note for note in cloud["notes"])
        self.write(tmp_path / "b.las")
        assert "feat" not in read_cloud(tmp_path / "b.las")

    def test_without_a_decompressor_the_message_names_the_extra(self, tmp_path, monkeypatch):
        import laspy

        self.write(tmp_path / "a.laz")
        monkeypatch.setattr(laspy.LazBackend, "detect_available", classmethod(lambda cls: ()))
        with pytest.raises(CloudError, match=r"a\.laz: \.laz files need lazrs: pip install 'xmodal\[points\]'"):
            read_cloud(tmp_path / "a.laz")


class TestText:
    def read(self, tmp_path, text, name="a.xyz", **options):
        (tmp_path / name).write_text(text)
        return read_cloud(tmp_path / name, **options)

    @pytest.mark.parametrize(
        "text",
        [
            "X Y Z R G B\n0 0 0.5 255 0 0\n1 2 3 0 255 0\n",
            "//X Y Z R G B\n2\n0 0 0.5 255 0 0\n1 2 3 0 255 0\n",  # CloudCompare
            '"x";"y";"z";"red";"green";"blue"\n0;0;0,5;255;0;0\n1;2;3;0;255;0\n',
            "x,y,z,i,r,g,b,label\n0,0,0.5,7,255,0,0,wall\n1,2,3,8,0,255,0,floor\n",
            "# a scan\n\n0 0 0.5 255 0 0\n1 2 3 0 255 0 # last\n",
            "X (m) Y (m) Z (m) R G B\n0 0 0.5 255 0 0\n1 2 3 0 255 0\n",
            "0,0,0.5,255,0,0,\n1,2,3,0,255,0,\n",
            "0\t0\t0,5\t255\t0\t0\n1\t2\t3\t0\t255\t0\n",
            "0,0 0,0 5,0e-1 255 0 0\n1,0 2 3 0 255 0\n",
            '"0","0","0.5","255","0","0"\n"1","2","3","0","255","0"\n',
            "2\n0\t0\t0.5\t255\t0\t0\n1\t2\t3\t0\t255\t0\n",
            "\ufeffx [m], y [m], z [m], Red, Green, Blue\n0, 0, 0.5, 255, 0, 0,\n1, 2, 3, 0, 255, 0,\n",
        ],
    )
    def test_headers_comments_and_counts(self, tmp_path, text):
        cloud = self.read(tmp_path, text)
        assert cloud["coord"].tolist() == XYZ[:2].tolist()
        assert colors_of(cloud) == RGB[:2].tolist()

    def test_normals_are_not_colors(self, tmp_path):
        cloud = self.read(tmp_path, "0.5 0 0.5 0 -1 0\n0 0.5 0.5 -1 0 0\n0.5 0.5 0 0 0.6 0.8\n")
        assert "feat" not in cloud
        assert cloud["normal"][2].tolist() == pytest.approx([0, 0.6, 0.8])
        assert any("normals" in note for note in cloud["notes"])

    def test_what_the_values_do_not_tell_is_left_out_and_said(self, tmp_path):
        for rest in ("-5.5 0.25 3", "0 1 1", "0.5 100.5 3", "7", "1 2 3 4", "3 300000 7"):
            cloud = self.read(tmp_path, f"0 0 0.5 {rest}\n1 2 3 {rest}\n")
            assert not {"feat", "normal", "intensity"} & cloud.keys(), rest
            assert any("--columns" in note for note in cloud["notes"]), rest

    def test_columns_by_name(self, tmp_path):
        text = "7 255 0 0 0 0 0.5\n8 0 255 0 1 2 3\n"
        cloud = self.read(tmp_path, text, columns=["intensity", "r", "g", "b", "x", "y", "z"])
        assert cloud["coord"].tolist() == XYZ[:2].tolist()
        assert colors_of(cloud) == RGB[:2].tolist()
        assert cloud["intensity"].tolist() == [7, 8]
        with pytest.raises(ValueError, match="z must be named once"):
            self.read(tmp_path, text, columns=["x", "y", "i"])
        with pytest.raises(CloudError, match="names 8 columns, the file has 7"):
            self.read(tmp_path, text, columns=["x", "y", "z", "-", "-", "-", "-", "-"])

    def test_columns_by_name_leave_words_out(self, tmp_path):
        text = "id,a,b,c,kind\np1,0,0,0.5,wall\np2,1,2,3,floor\n"
        cloud = self.read(tmp_path, text, "a.csv", columns=["-", "x", "y", "z", "kind"])
        assert cloud["coord"].tolist() == XYZ[:2].tolist()
        with pytest.raises(CloudError, match=r"a\.csv: no rows of numbers|a\.csv: line 1"):
            self.read(tmp_path, text, "a.csv")

    def test_pts_as_leica_writes_it(self, tmp_path):
        cloud = self.read(tmp_path, "2\n0 0 0.5 -1500 255 0 0\n1 2 3 20 0 255 0\n", "a.pts")
        assert colors_of(cloud) == RGB[:2].tolist()
        assert cloud["intensity"].tolist() == [-1500, 20]
        assert "feat" not in self.read(tmp_path, "0 0 0.5 0 0.6 0.8\n1 2 3 1 0 0\n", "a.pts")  # normals
        with pytest.raises(CloudError, match=r"a\.pts: the first line promises 3 points, 2 are there"):
            self.read(tmp_path, "3\n0 0 0.5\n1 2 3\n", "a.pts")

    def test_damage_is_named(self, tmp_path):
        for text, said in (("water\nH 0 0 1\n", "no rows"), ("0 0 0\n1 2\n", "row"), ("x y i\n1 2 3\n", "header")):
            with pytest.raises(CloudError, match=rf"a\.xyz.*{said}"):
                self.read(tmp_path, text)


class TestArrays:
    def test_width_of_bin(self, tmp_path):
        rng = np.random.default_rng(0)
        xyz = rng.uniform(-50, 50, (6000, 3)).astype("<f4")
        path = tmp_path / "a.bin"
        whole = rng.integers(0, 255, (6000, 3))
        for extra, names in (
            (rng.random((6000, 1)), ["intensity"]),
            (whole[:, :2] % 32, ["intensity"]),
            (whole, ["feat"]),
        ):
            np.c_[xyz, extra].astype("<f4").tofile(path)
            cloud = read_cloud(path)
            assert np.array_equal(cloud["coord"], xyz)
            assert {"feat", "intensity"} & cloud.keys() == set(names)
        np.c_[xyz, rng.normal(size=(6000, 3))].astype("<f4").tofile(path)  # nothing that is known
        with pytest.raises(CloudError, match=r"a\.bin: the number of columns is not clear.*--columns"):
            read_cloud(path)
        cloud = read_cloud(path, columns=["x", "y", "z", "nx", "ny", "nz"])
        assert np.array_equal(cloud["coord"], xyz)
        with pytest.raises(CloudError, match="no whole rows of 7"):
            read_cloud(path, columns=["x", "y", "z", *"abcd"])

    def test_hdf5_of_many_clouds(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["data"], file["label"] = np.stack([XYZ, 2 * XYZ]), [[1], [2]]
        with pytest.raises(CloudError, match=r"a\.h5: data holds 2 clouds: name one, FILE#0 to FILE#1"):
            read_cloud(tmp_path / "a.h5")
        assert read_cloud(tmp_path / "a.h5#1")["coord"].tolist() == (2 * XYZ).tolist()

    def test_arrays_by_name_and_images(self, tmp_path):
        np.savez(tmp_path / "a.npz", xyz=XYZ, rgb=RGB, normals=np.eye(3), intensity=[1, 2, 3])
        cloud = read_cloud(tmp_path / "a.npz")
        assert colors_of(cloud) == RGB.tolist()
        assert cloud["normal"].tolist() == np.eye(3).tolist()
        image = np.zeros((2, 2, 3), np.float32)
        image[0, 1] = np.nan
        np.save(tmp_path / "a.npy", image)
        assert read_cloud(tmp_path / "a.npy")["kept"].tolist() == [True, False, True, True]

    def test_an_array_lying_on_its_side(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((3, 50)))
        with pytest.raises(CloudError, match=r"a\.npy: an array of shape \(3, 50\): points are its rows"):
            read_cloud(tmp_path / "a.npy")

    def test_features_that_are_not_finite_are_broken_points(self, tmp_path):
        table = np.c_[np.random.default_rng(0).normal(size=(50, 3)), np.random.default_rng(1).random((50, 3))]
        table[7, 4] = np.nan
        np.save(tmp_path / "a.npy", table)
        cloud = read_cloud(tmp_path / "a.npy")
        assert len(cloud["coord"]) == 49
        assert np.isfinite(cloud["feat"]).all()
        assert any("color that is not finite" in note for note in cloud["notes"])


class TestMeshes:
    """A box of 1 x 2 x 3: 22 of surface."""

    @pytest.mark.parametrize("ending", ["off", "obj", "stl", "glb", "gltf"])
    def test_points_are_drawn_by_area(self, tmp_path, ending):
        trimesh = pytest.importorskip("trimesh")
        path = tmp_path / f"a.{ending}"
        if ending == "gltf":
            for name, content in trimesh.creation.box((1, 2, 3)).export(file_type="gltf").items():
                (tmp_path / ("a.gltf" if name.endswith(".gltf") else name)).write_bytes(content)
        else:
            trimesh.creation.box((1, 2, 3)).export(path)
        cloud = read_cloud(path, up="z")
        assert np.allclose(np.abs(cloud["coord"]).max(0), [0.5, 1, 1.5], atol=1e-3)
        top = (cloud["coord"][:, 2] > 1.4999).mean()
        assert top == pytest.approx(2 / 22, abs=0.005)
        assert np.allclose(np.linalg.norm(cloud["normal"], axis=1), 1, atol=1e-4)
        assert any("drawn" in note for note in cloud["notes"])
        if ending in ("glb", "gltf"):
            upright = read_cloud(path)
            assert np.allclose(np.abs(upright["coord"]).max(0), [0.5, 1.5, 1], atol=1e-3)

    def test_off_of_modelnet(self, tmp_path):
        pytest.importorskip("trimesh")
        (tmp_path / "a.off").write_text("OFF3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
        cloud = read_cloud(tmp_path / "a.off")
        assert cloud["coord"].mean(0).tolist() == pytest.approx([1 / 3, 1 / 3, 0], abs=0.005)

    def test_missing_libraries_are_named(self, tmp_path, monkeypatch):
        import sys

        for module, ending, extra in (
            ("trimesh", "obj", "meshes"),
            ("pye57", "e57", "e57"),
            ("laspy", "las", "points"),
        ):
            (tmp_path / f"a.{ending}").write_text("x")
            monkeypatch.setitem(sys.modules, module, None)
            with pytest.raises(CloudError, match=rf"a\.{ending}: .*{module}: pip install 'xmodal\[{extra}\]'"):
                read_cloud(tmp_path / f"a.{ending}")


def test_e57_with_poses_and_invalid_points(tmp_path):
    pye57 = pytest.importorskip("pye57")
    file = pye57.E57(str(tmp_path / "a.e57"), mode="w")
    data = {f"cartesian{k}": XYZ[:, i].astype(float) for i, k in enumerate("XYZ")}
    data |= {f"color{k}": RGB[:, i] for i, k in enumerate(("Red", "Green", "Blue"))}
    data["intensity"] = np.array([1.0, 2, 3])
    quarter = np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])  # a quarter turn around z
    file.write_scan_raw(data, rotation=quarter, translation=MAP)
    file.close()
    cloud = read_cloud(tmp_path / "a.e57")
    expected = np.c_[-XYZ[:, 1], XYZ[:, 0], XYZ[:, 2]] + MAP
    assert np.abs(cloud["frame"].to_file(cloud["coord"]) - expected).max() < 1e-5
    assert colors_of(cloud) == RGB.tolist()
    assert cloud["intensity"].tolist() == [1, 2, 3]


NOISE = (".ply", ".pcd", ".las", ".laz", ".npy", ".npz", ".h5", ".bin", ".xyz", ".off", ".obj", ".stl", ".glb", ".gltf")


@pytest.mark.parametrize("ending", [*NOISE, ".e57"])
@pytest.mark.parametrize("content", [b"<html>404</html>", b"", bytes(range(256)) * 3 + b"x", b"LASF", b"ply\n"])
def test_errors_of_every_library_are_ours_and_name_the_file(tmp_path, ending, content):
    path = tmp_path / f"bad{ending}"
    path.write_bytes(content)
    with pytest.raises(CloudError, match=rf"bad\{ending}"):
        read_cloud(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CloudError, match="no file at"):
        read_scan(tmp_path / "a.ply")


def test_the_page_has_every_format():
    page = (Path(__file__).parents[2] / "docs" / "pointclouds.md").read_text()
    assert not [ending for ending in ENDINGS if f"`{ending}`" not in page]
