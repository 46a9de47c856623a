"""Folders and lists with names of any kind: every file once, others counted, nothing lost between two programs."""

import errno
import logging
import os

import pytest

from video.annotations import VIDEOS
from xmodal.data.annotations import IMAGES, Sample, write_list
from xmodal.data.class_names import read_classes
from xmodal.data.trouble import TroubleError
from xmodal.data.walk import LeftOut, files_below, printable


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def ids(root, kind=VIDEOS):
    return [(sample.sample_id, sample.label) for sample in kind.read(root).samples]


@pytest.mark.parametrize(
    ("link", "target"),
    [("a/latest", "."), ("a/up", ".."), ("a/sub/up", "../.."), ("all", "."), ("a/absolute", None), ("a/b", "../../..")],
)
def test_links_upwards_are_not_followed(tmp_path, link, target):
    root = tmp_path / "set"
    touch(root, "a/0.mp4", "a/sub/1.mp4", "b/0.mp4")
    os.symlink(target if target else root, root / link)
    assert ids(root) == [("a/0.mp4", 0), ("a/sub/1.mp4", 0), ("b/0.mp4", 1)]


def test_two_links_upwards_end(tmp_path):
    touch(tmp_path, "a/0.mp4", "b/0.mp4")
    os.symlink("..", tmp_path / "a" / "up")
    os.symlink("..", tmp_path / "b" / "up")
    assert ids(tmp_path) == [("a/0.mp4", 0), ("b/0.mp4", 1)]


def test_links_elsewhere_are_followed_once(tmp_path):
    touch(tmp_path, "store/0.mp4", "set/a/1.mp4", "set/b/2.mp4")
    for name in ("first", "second"):
        os.symlink(tmp_path / "store", tmp_path / "set" / "a" / name)
    os.symlink(tmp_path / "store" / "0.mp4", tmp_path / "set" / "b" / "linked.mp4")
    assert ids(tmp_path / "set") == [("a/1.mp4", 0), ("a/first/0.mp4", 0), ("b/2.mp4", 1), ("b/linked.mp4", 1)]


def test_folders_that_link_to_each_other(tmp_path):
    touch(tmp_path, "a/0.mp4", "b/1.mp4")
    os.symlink("../b", tmp_path / "a" / "x")
    os.symlink("../a", tmp_path / "b" / "y")
    found = [os.path.relpath(path, tmp_path) for path in files_below(tmp_path / "a", (".mp4",))]
    assert found == ["a/0.mp4", "a/x/1.mp4"]


def test_hidden_files_and_folders_are_skipped(tmp_path):
    touch(tmp_path, "a/0.mp4", "a/.1.mp4", "a/._0.mp4", "a/.trash/2.mp4", "b/.git/x.mp4", "b/3.mp4", ".c/4.mp4")
    assert ids(tmp_path) == [("a/0.mp4", 0), ("b/3.mp4", 1)]


@pytest.mark.parametrize("ending", [".mp4", ".MTS", ".m2ts", ".ogv", ".VOB", ".asf", ".3g2", ".mpe", ".mxf", ".divx"])
def test_endings_of_films(tmp_path, ending):
    touch(tmp_path, f"a/film{ending}", "b/control.mp4")
    assert (f"a/film{ending}", 0) in ids(tmp_path)


@pytest.mark.parametrize("ending", [".jpg", ".JPEG", ".jfif", ".avif", ".tga", ".jp2", ".pbm", ".webp"])
def test_endings_of_images(tmp_path, ending):
    touch(tmp_path, f"a/image{ending}", "b/control.png")
    assert (f"a/image{ending}", 0) in ids(tmp_path, IMAGES)


def test_what_is_left_out_is_counted_and_named(tmp_path, caplog):
    touch(tmp_path, "a/0.mp4", "a/notes.txt", "a/more.txt", "b/1.mp4", "b/film.xyz", "b/noending", "loose.mp4")
    with caplog.at_level(logging.WARNING):
        assert len(ids(tmp_path)) == 2
    said = caplog.text
    assert caplog.text.count("left out") == 1
    for part in ("2 .txt", "1 .xyz", "film.xyz", "1 without an ending", "loose.mp4"):
        assert part in said
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        VIDEOS.below(tmp_path / "b")  # as Kinetics and Something-Something look for their files
    assert "1 .xyz" in caplog.text


def test_many_endings_are_summed_up():
    left_out = LeftOut()
    for i in range(9):
        left_out.add(f"/d/x.{i}", f".{i}")
    assert "and 4 further endings" in str(left_out)


NAMES = [
    "a\u2028b.mp4", "a\x85b.mp4", "a\x0cb.mp4", "a\x1cb.mp4", "a\nb.mp4", "a\rb.mp4", "tab\t3.mp4", " lead.mp4",
    'quo"te.mp4', '"quoted".mp4', "back\\slash.mp4", "a 7.mp4", "comma, 5.mp4", os.fsdecode(b"caf\xe9.mp4"),
    "täglich.mp4",     "trail.mp4 ", "\u3000wide.mp4", "a:b.mp4", "100%d.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=map(ascii, NAMES))
def test_any_name_survives_a_list(tmp_path, name):
    film = tmp_path / name
    film.write_bytes(b"x")
    write_list(tmp_path / "list.txt", [Sample(str(film), 3, name), Sample(str(film), 10, name)])
    samples = VIDEOS.read(tmp_path / "list.txt").samples
    assert [(s.path, s.label) for s in samples] == [(str(film), 3), (str(film), 10)]


def test_lists_and_classes_that_are_not_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.mp4 1\r\n")
    assert os.path.exists(VIDEOS.read(tmp_path / "list.txt").samples[0].path)
    (tmp_path / "classes.txt").write_text("one\u2028half\ntwo\x85\n", encoding="utf-8")
    assert read_classes(tmp_path / "classes.txt") == ["one\u2028half", "two"]


def test_printable_names():
    assert printable("täglich ok.mp4") == "täglich ok.mp4"
    assert printable("a\nb\u2028\udce9") == "a\\nb\\u2028\\udce9"
    printable("".join(NAMES)).encode("utf-8")


def test_files_of_any_name_can_be_predicted(tmp_path):
    from PIL import Image

    from xmodal.data.images import ImageDataset
    from xmodal.engine.predict import dataset_of_files

    files = [str(tmp_path / os.fsdecode(b"caf\xe9\n.png")), str(tmp_path / "sub" / ".." / "b.png")]
    (tmp_path / "sub").mkdir()
    for file in files:
        Image.new("RGB", (8, 8)).save(file, "png")
    data = dataset_of_files({"type": ImageDataset}, files, tmp_path)
    assert [data[i]["sample_id"] for i in range(2)] == files


@pytest.mark.parametrize("text", ["label,youtube_id,time_start,time_end\nx," + "a" * 200_000 + "\n", "a,b\n1\n"])
def test_tables_that_are_none(tmp_path, text):
    (tmp_path / "val.csv").write_text(text)
    with pytest.raises(ValueError, match=r"val\.csv"):
        VIDEOS.read(tmp_path / "val.csv", format="kinetics")


def test_annotations_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="pipe is a FIFO"):
        VIDEOS.read(tmp_path / "pipe")
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    with pytest.raises(ValueError, match=r"/dev/zero is a device|class file /dev/zero does not exist"):
        VIDEOS.read(tmp_path / "list.txt", classes="/dev/zero")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json"):
        IMAGES.read(tmp_path / "deep.json")


@pytest.mark.parametrize(("number", "error"), [(errno.EACCES, ValueError), (errno.EIO, TroubleError)])
def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch, number, error):
    touch(tmp_path, "a/0.mp4", "b/1.mp4")
    listed = os.scandir

    def scandir(path="."):
        if os.fspath(path).endswith("b"):
            raise OSError(number, os.strerror(number), path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(error, match="/b"):
        VIDEOS.read(tmp_path)
