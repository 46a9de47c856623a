"""Files, folders, patterns and lists on the command line."""

import os

import pytest

from xmodal.engine.inputs import expand

ENDINGS = (".mp4", ".jpg")


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("a/x.mp4", "a/b/x.jpg", "a/b/x.mp4", "a/notes.txt", "a/.hidden.mp4", "c/x.MP4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1 2 3")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*named, **options):
    return [entry.path for entry in expand(named, ENDINGS, **options)]


def test_folders_patterns_and_lists(here):
    assert paths("a") == ["a/x.mp4", "a/b/x.jpg", "a/b/x.mp4"]
    assert paths("a", "a/x.mp4", "c/*") == ["a/x.mp4", "a/b/x.jpg", "a/b/x.mp4", "c/x.MP4"]
    assert paths("a/**/*.jpg") == ["a/b/x.jpg"]
    (here / "list.txt").write_text("a/x.mp4\n\nc\n")
    (here / "a" / "near.lst").write_text("b/x.mp4\n")
    assert paths("list.txt") == ["a/x.mp4", "c/x.MP4"]
    assert paths("@list.txt") == ["a/x.mp4", "c/x.MP4"]
    assert paths("a/near.lst") == ["a/b/x.mp4"]
    assert paths("a/notes.txt") == ["a/notes.txt"]  # a cloud, no list
    (here / "a" / "notes.txt").write_text("1.25 " * 2000)
    assert paths("a/notes.txt") == ["a/notes.txt"]  # nor is a line too long for a name
    assert paths("x" * 5000) == ["x" * 5000]


def test_what_is_not_there(here):
    assert paths("none.mp4", "a/x.mp4") == ["none.mp4", "a/x.mp4"]  # reported later, beside the others
    for named, said in (("*.avi", "no file matches"), ("@none.txt", "no list at none.txt")):
        with pytest.raises(ValueError, match=said):
            paths(named)
    (here / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no files below empty that end in \.mp4 \.jpg"):
        paths("empty")


def test_a_name_with_brackets_is_a_name(here):
    (here / "clip[1].mp4").write_text("")
    assert paths("clip[1].mp4") == ["clip[1].mp4"]


def test_links_in_a_circle_end(here):
    os.symlink(here / "a", here / "a" / "b" / "again")
    assert paths("a") == ["a/x.mp4", "a/b/x.jpg", "a/b/x.mp4"]


def test_names_never_meet(here):
    names = [entry.name for entry in expand(["a", "c", str(here / "a" / "x.mp4")], ENDINGS)]
    assert len(set(names)) == 4
    assert names == ["a/x.mp4", "b/x.jpg", "b/x.mp4", "c/x.MP4"]
    only = [entry.name for entry in expand([str(here / "a" / "x.mp4"), "../" + here.name + "/a/b/x.jpg"], ENDINGS)]
    assert only == ["x.mp4", "x.jpg"]
