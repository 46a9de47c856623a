"""Files as other programs write them: spreadsheets, scanners, numpy, meshes; every value is known beforehand."""

import h5py
import numpy as np
import pytest

from pointcloud.datasets.base import CloudError
from pointcloud.datasets.files import read_cloud, read_scan

XYZ = np.array([[1, 2, 3], [4, 5, 6], [-7, 8, 9.5], [10, 11, -12]])
RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 102, 204]], np.uint8)
UP = np.tile([0.0, 0.0, 1.0], (4, 1))


def same(cloud, color=True):
    assert np.allclose(cloud["frame"].to_file(cloud["coord"]), XYZ)
    assert ("feat" in cloud) == color
    assert not color or np.allclose(cloud["feat"] * 255, RGB, atol=0.01)
    return cloud


def lines(rows, separator=" ", end="\n"):
    return "".join(separator.join(f"{v:g}" for v in row) + end for row in rows)


class TestText:
    def test_decimal_commas_that_begin_behind_whole_numbers(self, tmp_path):
        path = tmp_path / "Messung größe.csv"
        path.write_text("X;Y;Z;R;G;B\n" + lines(np.c_[XYZ, RGB], ";").replace(".", ","))
        same(read_cloud(path))

    @pytest.mark.parametrize("nothing", ["", "NA", "null", "n/a", "None", "-"])
    def test_cells_without_a_number(self, tmp_path, nothing):
        path = tmp_path / "a.csv"
        path.write_text(f"x,y,z,intensity\n1,{nothing},3,4\n" + lines(np.c_[XYZ, [1, 2, 3, 4]], ","))
        cloud = same(read_cloud(path), color=False)
        assert cloud["intensity"].tolist() == [1, 2, 3, 4]
        assert cloud["kept"].tolist() == [False, True, True, True, True]
        assert cloud["notes"] == ["1 of 5 points have coordinates that are not finite: dropped"]

    def test_words_are_no_numbers(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("x,y,z\n1,2,3\n4,chair,6\n")
        with pytest.raises(CloudError, match=r"a\.csv cannot be read: .*chair.* row 1"):
            read_cloud(path)

    def test_cells_of_dashes_are_no_first_row(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("- - -\n" + lines(XYZ))
        assert "left out" in same(read_cloud(path), color=False)["notes"][0]

    @pytest.mark.parametrize("remark", [" # a tree", "  // a tree", " % a tree"])
    def test_remarks_behind_numbers(self, tmp_path, remark):
        (tmp_path / "a.xyz").write_text(lines(XYZ, end=f"{remark}\n"))
        same(read_cloud(tmp_path / "a.xyz"), color=False)

    def test_exponents_of_fortran(self, tmp_path):
        (tmp_path / "a.xyz").write_text("\n".join(" ".join(f"{v:.6e}" for v in r) for r in XYZ).replace("e", "D"))
        same(read_cloud(tmp_path / "a.xyz"), color=False)

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
    def test_marks_of_the_encoding(self, tmp_path, encoding):
        (tmp_path / "a.csv").write_text("x,y,z\n" + lines(XYZ, ","), encoding=encoding)
        same(read_cloud(tmp_path / "a.csv"), color=False)


class TestArrays:
    @pytest.mark.parametrize("names", [("xyz", "rgb", "normal"), ("Position", "Color", "Normals")])
    def test_fields_of_several_numbers(self, tmp_path, names):
        table = np.zeros(4, [(names[0], "f4", 3), (names[1], "u1", 3), (names[2], "f4", 3)])
        for name, values in zip(names, (XYZ, RGB, UP), strict=True):
            table[name] = values
        np.save(tmp_path / "a.npy", table)
        assert np.array_equal(same(read_cloud(tmp_path / "a.npy"))["normal"], UP)

    def test_packed_colors_of_ros(self, tmp_path):
        table = np.zeros(4, [(k, "f4") for k in ("x", "y", "z", "rgb")])
        table["x"], table["y"], table["z"] = XYZ.T
        table["rgb"] = np.frombuffer(np.c_[RGB[:, ::-1], np.full(4, 255)].astype(np.uint8).tobytes(), "<f4")
        np.save(tmp_path / "a.npy", table)
        same(read_cloud(tmp_path / "a.npy"))

    def test_a_gray_byte_called_rgb_is_no_packed_color(self, tmp_path):
        table = np.zeros(4, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "u1")])
        table["x"], table["y"], table["z"] = XYZ.T
        np.save(tmp_path / "a.npy", table)
        same(read_cloud(tmp_path / "a.npy"), color=False)

    def test_colors_turned_the_other_way_are_not_cut_anew(self, tmp_path):
        np.savez(tmp_path / "a.npz", points=np.tile(XYZ, (2, 1)), colors=np.tile(RGB, (2, 1)).T)
        with pytest.raises(CloudError, match=r"a\.npz: colors has shape \(3, 8\) for 8 points, expected a row a point"):
            read_cloud(tmp_path / "a.npz")

    def test_each_of_many_clouds_has_its_own_colors(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["scans/data"] = np.stack([XYZ + 1, XYZ])
            file["scans/color"] = np.stack([RGB[::-1], RGB])
            file["label"] = [3, 4]
        same(read_cloud(f"{tmp_path / 'a.h5'}#1"))

    def test_images_of_points_and_colors(self, tmp_path):
        np.savez(tmp_path / "a.npz", xyz=XYZ.reshape(2, 2, 3), rgb=RGB.reshape(2, 2, 3), intensity=[[1, 2], [3, 4]])
        cloud = same(read_cloud(tmp_path / "a.npz"))
        assert cloud["intensity"].tolist() == [1, 2, 3, 4]
        assert "read as an image of 2 x 2 points" in cloud["notes"][0]

    @pytest.mark.parametrize("names", [("pos", "color"), ("Points", "Colors"), ("vertices", "rgb")])
    def test_usual_names(self, tmp_path, names):
        np.savez(tmp_path / "a.npz", **dict(zip(names, (XYZ, RGB), strict=True)), label=np.array(3))
        same(read_cloud(tmp_path / "a.npz"))

    def test_an_array_for_each_axis(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2], r=RGB[:, 0], g=RGB[:, 1], b=RGB[:, 2], n=4)
        same(read_cloud(tmp_path / "a.npz"))

    def test_a_color_of_one_column_is_not_used(self, tmp_path):
        np.savez(tmp_path / "a.npz", coord=XYZ, color=RGB[:, 0])
        assert same(read_cloud(tmp_path / "a.npz"), color=False)["notes"] == [
            "color has 1 of 3 columns: not used as color"
        ]

    @pytest.mark.parametrize("kind", ["i2", "f2", "u2", "i4"])
    def test_small_numbers_do_not_overflow(self, tmp_path, kind, recwarn):
        points = np.array([[-20000, 0, 5], [20000, 100, 7]]).clip(0 if kind == "u2" else None)
        np.save(tmp_path / "a.npy", points.astype(kind))
        cloud = read_cloud(tmp_path / "a.npy")
        assert cloud["coord"].tolist() == points.tolist()
        assert not cloud["offset"].any()
        assert not recwarn.list

    @pytest.mark.parametrize("content", [{"xyz": XYZ}, [XYZ, None]])
    def test_pickled_objects_are_refused_with_the_fix(self, tmp_path, content):
        np.save(tmp_path / "a.npy", np.array(content, dtype=object), allow_pickle=True)
        np.savez(tmp_path / "a.npz", points=np.array(content, dtype=object))
        for name in ("a.npy", "a.npz"):
            with pytest.raises(CloudError, match=rf"{name}: it holds pickled objects, .*save arrays of numbers"):
                read_cloud(tmp_path / name)


def test_vertices_keep_their_colors(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    (tmp_path / "a.obj").write_text("".join(f"v {p[0]} {p[1]} {p[2]} {c[0]} {c[1]} {c[2]}\n"
                                            for p, c in zip(XYZ, RGB / 255, strict=True)))  # fmt: skip
    colors = np.c_[RGB, np.full(4, 255)].astype(np.uint8)
    (tmp_path / "a.glb").write_bytes(trimesh.Scene([trimesh.PointCloud(XYZ, colors)]).export(file_type="glb"))
    (tmp_path / "plain.obj").write_text("".join(f"v {x} {y} {z}\n" for x, y, z in XYZ))
    same(read_cloud(tmp_path / "a.obj"))
    same(read_cloud(tmp_path / "a.glb"))
    same(read_cloud(tmp_path / "plain.obj"), color=False)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_comments_of_a_ply_in_any_script(tmp_path, form):
    head = f"ply\nformat {form} 1.0\ncomment caf\xe9\nelement vertex 4\n"
    head += "".join(f"property double {k}\n" for k in "xyz") + "end_header\n"
    body = lines(XYZ).encode() if form == "ascii" else XYZ.astype("<f8").tobytes()
    (tmp_path / "a.ply").write_bytes(head.encode("latin1") + body)
    same(read_cloud(tmp_path / "a.ply"), color=False)


def test_colors_of_some_scans_of_an_e57_are_left_out_and_said(tmp_path):
    pye57 = pytest.importorskip("pye57")
    file = pye57.E57(str(tmp_path / "a.e57"), mode="w")
    points = {f"cartesian{k}": XYZ[:, i].copy() for i, k in enumerate("XYZ")}
    file.write_scan_raw(points | {f"color{k}": RGB[:, i].copy() for i, k in enumerate(("Red", "Green", "Blue"))})
    file.write_scan_raw(points)
    file.close()
    scan = read_scan(tmp_path / "a.e57")
    assert scan.color is None
    assert scan.notes == ["2 scans joined", "not all scans have color: not used"]


class TestOff:
    @pytest.mark.parametrize("top", ["255", "1", "0.5", "65535"])
    def test_colors_of_vertices_between_the_vertices(self, tmp_path, top):
        corners = [f"0 0 5 {top} 0 0 1", f"1 0 5 0 {top} 0 1", f"0 1 5 0 0 {top} 1"]
        (tmp_path / "a.off").write_text("COFF\n# by hand\n3 1 0\n" + "\n".join(corners) + "\n3 0 1 2\n")
        cloud = read_cloud(tmp_path / "a.off")
        x, y, _ = cloud["coord"].T
        scale = 0.5 if top == "0.5" else 1
        assert np.allclose(cloud["feat"], scale * np.stack([1 - x - y, x, y], axis=1), atol=0.5 / 255)

    def test_colors_of_vertices_of_other_meshes_too(self, tmp_path):
        (tmp_path / "a.obj").write_text("v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n")
        cloud = read_cloud(tmp_path / "a.obj")
        x, y, _ = cloud["coord"].T
        assert np.allclose(cloud["feat"], np.stack([1 - x - y, x, y], axis=1), atol=0.5 / 255)

    @pytest.mark.parametrize("color", [("255 0 0", "0 0 255"), ("1.0 0.0 0.0 1.0", "0.0 0.0 1.0 0.5")])
    def test_colors_of_faces(self, tmp_path, color):
        square = "OFF 4 3 0\n0 0 0\n2 0 0\n2 1 0\n0 1 0\n"
        (tmp_path / "a.off").write_text(f"{square}4 0 1 2 3 {color[0]}\n2 0 1\n3 0 3 1 {color[1]}\n")
        cloud = read_cloud(tmp_path / "a.off")
        down = cloud["normal"][:, 2] < 0  # the second face alone is seen from below
        assert abs(down.mean() - 1 / 3) < 0.01
        assert np.array_equal(cloud["feat"], np.where(down[:, None], [0, 0, 1], [1, 0, 0]))

    def test_faces_without_a_color_are_gray_beside_others(self, tmp_path):
        rows = "3 1 0\n0 0 0\n2 0 0\n2 1 0\n".replace("3 1", "3 2")
        (tmp_path / "a.off").write_text(f"OFF\n{rows}3 0 1 2 0 255 0\n3 2 1 0\n")
        cloud = read_cloud(tmp_path / "a.off")
        up = cloud["normal"][:, 2] > 0
        assert np.allclose(cloud["feat"], np.where(up[:, None], [0, 1, 0], 2 / 3), atol=1e-6)
        assert cloud["notes"][-1] == "1 of 2 faces have no color: gray"

    @pytest.mark.parametrize(
        ("word", "row"), [("COFF", "{xyz} {rgb} 255"), ("CNOFF", "{xyz} 0 0 1 {rgb}"),
                      ("STCNOFF", "{xyz} 0 0 1 {rgb} 0 1"),
                      ("OFF", "{xyz} {rgb}"), ("C4OFF", "{xyz} 1 {rgb}")])  # fmt: skip
    def test_vertices_alone(self, tmp_path, word, row):
        number = lambda values: " ".join(f"{v:g}" for v in values)  # noqa: E731
        rows = [row.format(xyz=number(p), rgb=number(c)) for p, c in zip(XYZ, RGB, strict=True)]
        (tmp_path / "a.off").write_text(f"{word}\n4 0 0\n" + "\n".join(rows))
        cloud = same(read_cloud(tmp_path / "a.off"))
        assert "N" not in word or np.array_equal(cloud["normal"], UP)

    @pytest.mark.parametrize(
        ("text", "said"), [("OFF BINARY\n3 1 0\n", "OFF BINARY: only text files"),
                       ("nOFF 4\n3 1 0\n", "nOFF: only text"),
                       ("OFF\n1 9 0\n0 0 0\n", "1 vertices and 9 faces, the file has 1 lines"),
                       ("OFF\n2 1 0\n0 0 0\n1 0 0\n3 0 1 2\n", "faces name vertices from 0 to 2, there are 0 to 1"),
                       ("CNOFF\n1 0 0\n0 0 0 1 1 1\n", "CNOFF has 9 numbers or more for each vertex, the file has 6"),
                       ("<html>404</html>", "not an .off file")])  # fmt: skip
    def test_what_is_refused(self, tmp_path, text, said):
        (tmp_path / "a.off").write_text(text)
        with pytest.raises(CloudError, match=f"a.off: .*{said}"):
            read_cloud(tmp_path / "a.off")


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_with_carriage_returns_alone(tmp_path, form):
    points = XYZ.astype("<f4")
    points.view(np.uint8)[0, 0] = 10  # looks like the line feed of a pair
    head = ["ply", f"format {form} 1.0", "comment caf\xe9", "element vertex 4", *(f"property float {k}" for k in "xyz")]
    body = {"ascii": lines(points, end="\r").encode(), "binary_little_endian": points.tobytes()}
    head = "\r".join([*head, "end_header", ""]).encode("latin1")
    (tmp_path / "a.ply").write_bytes(head + body.get(form, points.astype(">f4").tobytes()))
    assert np.allclose(read_scan(tmp_path / "a.ply").xyz, points)


@pytest.mark.parametrize(
    ("words", "said"), [("0 0 0 1 0 0 0", []), ("0.0 -0 0 1.0 0 0 0", []), ("9 0 0 0.7 0 0 0.7", ["9"])]
)
def test_viewpoint_of_pcd_moves_no_point_and_is_said(tmp_path, words, said):
    """PCL keeps the pose beside the points: `NormalEstimation` takes it as a place among the stored coordinates."""
    head = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 4\nHEIGHT 1\n"
    (tmp_path / "a.pcd").write_text(f"{head}VIEWPOINT {words}\nPOINTS 4\nDATA ascii\n" + lines(XYZ))
    notes = same(read_cloud(tmp_path / "a.pcd"), color=False)["notes"]
    assert notes == [f"VIEWPOINT {words}: the sensor's place; coordinates are left as they are stored" for _ in said]


def test_gaussian_splats_are_their_centers_and_the_color_from_all_sides(tmp_path):
    """As splatting programs write them; a factor of sqrt(pi) is half the range of a color."""
    root_pi = 1.7724538509055159
    names = [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "f_rest_0", "opacity", "scale_0", "rot_0"]
    factors = root_pi * np.array([[0, 1, -1], [0.5, 0, 0], [9, -9, 0], [-0.5, 0, 1]])
    rows = np.c_[XYZ, np.zeros((4, 3)), factors, np.ones((4, 4))].astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", "element vertex 4", *(f"property float {n}" for n in names)]
    (tmp_path / "point_cloud.ply").write_bytes("\n".join([*header, "end_header\n"]).encode() + rows.tobytes())
    cloud = read_cloud(tmp_path / "point_cloud.ply")
    assert np.allclose(cloud["frame"].to_file(cloud["coord"]), XYZ)
    assert np.allclose(cloud["feat"], [[0.5, 1, 0], [0.75, 0.5, 0.5], [1, 0, 0.5], [0.25, 0.5, 1]], atol=1e-6)
    assert "normal" not in cloud
    assert [note.split(":")[0] for note in cloud["notes"]] == ["the normals are all zero", "Gaussian splats"]
