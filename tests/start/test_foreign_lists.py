"""Lists, tables and folders as other programs write them: each file has the class that a person reads there."""

import json

import pytest

from xmodal.start.found import find
from xmodal.start.look import Look
from xmodal.start.write import divide

FILES = ("walk/a.mp4", "walk/b c.mp4", "run/é.mp4", "run/d.mp4")
NUMBERED = dict(zip(FILES, "0011", strict=True))
NAMED = {"walk/a.mp4": "walk", "run/d.mp4": "run"}
LINES = "".join(f"{name} {label}\n" for name, label in NUMBERED.items())
TABLE = "path,label\nwalk/a.mp4,walk\nrun/d.mp4,run\n"
KINETICS = "label,youtube_id,time_start,time_end,split\nriding a bike,-ab_c1,10,20,train\ntap dancing,xx,1,11,train\n"
CLIPS = {"x/-ab_c1_000010_000020.mp4": "riding a bike", "y/xx_000001_000011.mp4": "tap dancing"}
QUOTED = "\n".join(",".join(f'"{word}"' for word in line.split(",")) for line in KINETICS.splitlines())
ANNOTATIONS = {
    "UTF-16, as Windows writes it": ("list.txt", LINES.encode("utf-16"), NUMBERED),
    "UTF-16, the other order": ("list.txt", b"\xfe\xff" + LINES.encode("utf-16-be"), NUMBERED),
    "backslashes": ("list.txt", LINES.replace("/", "\\").encode(), NUMBERED),
    "semicolons": ("list.txt", LINES.replace(".mp4 ", ".mp4;").encode(), NUMBERED),
    "names behind semicolons": ("list.txt", b"walk/a.mp4;walk\nrun/d.mp4;run\n", NAMED),
    "names with commas behind tabs": (
        "list.txt", b"walk/a.mp4\tPutting a, b\nrun/d.mp4\trun\n", NAMED | {"walk/a.mp4": "Putting a, b"}),
    "carriage returns, a mark, empty lines": (
        "list.txt", ("\ufeff\n" + LINES + "\n").replace("\n", "\r\n").encode(), NUMBERED),
    "table in UTF-16, tabs": ("t.csv", TABLE.replace(",", "\t").encode("utf-16"), NAMED),
    "table, backslashes": ("t.csv", TABLE.replace("/", "\\").encode(), NAMED),
    "table, spaces behind commas": ("t.csv", TABLE.replace(",", ", ").encode(), NAMED),
    "table, empty rows of a spreadsheet": ("t.csv", TABLE.replace("walk\n", "walk\n,\n\n , \n").encode(), NAMED),
    "table, a number of the class": (
        "t.csv", b"video_id,class_id,start\nwalk/a,walk,0\nrun/d,run,1\n", {"walk/a.mp4": "walk", "run/d.mp4": "run"}),
    "Kinetics, quoted": ("train.csv", QUOTED.encode(), CLIPS),
    "Kinetics, tabs": ("train.csv", KINETICS.replace(",", "\t").encode(), CLIPS),
    "Kinetics, spaces": ("train.csv", KINETICS.replace(",", ", ").encode(), CLIPS),
    "Kinetics, other case": ("train.csv", KINETICS.replace("youtube_id", "YouTube_ID").encode(), CLIPS),
    "Kinetics, times without zeros": (
        "train.csv", KINETICS.encode(), {"x/-ab_c1_10_20.mp4": "riding a bike", "y/xx_1_11.mp4": "tap dancing"}),
    "Kinetics, ids alone": (
        "train.csv", KINETICS.encode(), {"x/-ab_c1.mp4": "riding a bike", "y/xx.mp4": "tap dancing"}),
    "Kinetics, one video of an id in the folders of two classes": (
        "train.csv", KINETICS.replace("xx", "-ab_c1").encode(),
        {"riding_a_bike/-ab_c1.mp4": "riding a bike", "tap dancing/-ab_c1.mp4": "tap dancing"}),
}  # fmt: skip
FOLDERS = {
    "a class called train": ("train/a.mp4", "train/b.mp4", "bus/c.mp4"),
    "classes that differ in case": ("Walk/a.mp4", "walk/a.mp4", "run/c.MP4"),
    "classes that differ in an underscore": ("a_b/a.mp4", "a b/b.mp4"),
    "what macOS and network drives leave": ("walk/a.mp4", "run/b.mp4", "__MACOSX/walk/._a.mp4", "@eaDir/x/t.mp4"),
    "one folder around all": ("data/walk/a.mp4", "data/run/b.mp4"),
}


def put(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"film")


def classes_of(found, root):
    return {s.path.removeprefix(f"{root}/"): found.classes[s.label] for part in found.parts.values() for s in part}


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_lists_and_tables(tmp_path, kind):
    name, content, wanted = ANNOTATIONS[kind]
    put(tmp_path, {*wanted, "extra/z.mp4"})
    (tmp_path / name).write_bytes(content)
    found = find(str(tmp_path / name))
    assert found.task == "video"
    assert classes_of(found, tmp_path) == wanted
    assert sorted(found.classes) == sorted(set(wanted.values()))


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_of_classes(tmp_path, kind):
    put(tmp_path, FOLDERS[kind])
    found = find(str(tmp_path))
    films = [name for name in FOLDERS[kind] if not name.startswith(("_", "@"))]
    assert classes_of(found, tmp_path) == {name: name.split("/")[-2] for name in films}
    assert sorted(found.classes) == sorted({name.split("/")[-2] for name in films})


def test_splits_whose_classes_differ_in_an_underscore(tmp_path):
    put(tmp_path, ("train/a_b/1.mp4", "train/a b/2.mp4", "train/c_d/3.mp4", "val/a_b/4.mp4", "val/c d/5.mp4"))
    found = find(str(tmp_path))
    assert found.classes == ["a b", "a_b", "c_d"]
    assert {s.sample_id: s.label for s in found.parts["val"]} == {"a_b/4.mp4": 1, "c d/5.mp4": 2}


def test_two_folders_for_one_split_are_refused(tmp_path):
    put(tmp_path, ("train/a/1.mp4", "val/a/2.mp4", "valid/a/3.mp4"))
    with pytest.raises(ValueError, match="several folders for one split: train, val, valid; join them"):
        find(str(tmp_path))


def test_bytes_that_are_no_text_are_named(tmp_path):
    put(tmp_path, FILES)
    (tmp_path / "list.txt").write_bytes(LINES.encode() + b"walk/\0.mp4 1\n")
    with pytest.raises(ValueError, match=r"list\.txt:5: a byte that is 0"):
        find(str(tmp_path / "list.txt"))


def test_a_head_line_of_other_words_is_no_file(tmp_path):
    put(tmp_path, NAMED)
    (tmp_path / "t.csv").write_text("clipname,what\nwalk/a.mp4,walk\nrun/d.mp4,run\n")
    with pytest.raises(ValueError, match=r"t\.csv: no column of paths among \['clipname', 'what'\]; call it `path`"):
        find(str(tmp_path / "t.csv"))


def test_a_folder_of_other_files_says_which(tmp_path):
    put(tmp_path, ("a/1.heic", "b/2.HEIC"))
    with pytest.raises(ValueError, match=r"2 \.heic .* holds no videos, images or clouds that can be read"):
        find(str(tmp_path))


def test_entries_that_repeat_count_once_and_contradictions_are_said(tmp_path):
    put(tmp_path, FILES)
    (tmp_path / "list.txt").write_text(LINES + "walk/a.mp4 0\nrun/d.mp4 0\n")
    found = find(str(tmp_path / "list.txt"))
    parts = divide(found, Look(), 0)
    listed = sorted((s.sample_id, s.label) for part in parts.values() for s in part)
    assert listed == sorted([*((name, int(label)) for name, label in NUMBERED.items()), ("run/d.mp4", 0)])
    assert "1 of the entries repeat others and count once" in found.notes
    assert f"WARNING: 1 files are listed with different classes, such as {tmp_path}/run/d.mp4" in found.notes


def test_something_something_v2_as_it_is_shipped(tmp_path):
    put(tmp_path, ("videos/1.webm", "videos/2.webm"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.json").write_text(json.dumps({"Holding something": "0", "Dropping something": "1"}))
    entries = [{"id": "1", "template": "Dropping [something]"}, {"id": "2", "label": "Holding something"}]
    (tmp_path / "labels/train.json").write_text(json.dumps(entries))
    wanted = {"videos/1.webm": "Dropping something", "videos/2.webm": "Holding something"}
    assert classes_of(find(str(tmp_path / "labels")), tmp_path) == wanted


def test_kinetics_takes_the_file_with_times_and_of_its_class(tmp_path):
    put(
        tmp_path, ("a/-ab_c1.mp4", "a/-ab_c1_000010_000020.mp4", "riding a bike/xx_1_11.mp4", "tap_dancing/xx_1_11.mp4")
    )
    (tmp_path / "train.csv").write_text(KINETICS)
    wanted = {"a/-ab_c1_000010_000020.mp4": "riding a bike", "tap_dancing/xx_1_11.mp4": "tap dancing"}
    assert classes_of(find(str(tmp_path / "train.csv")), tmp_path) == wanted


@pytest.mark.parametrize("label", ["tap dancing", "riding a bike"])  # of the same class, or of two
def test_kinetics_takes_no_uncut_video_for_two_clips(tmp_path, caplog, label):
    put(tmp_path, ("a/xx.mp4", "a/-ab_c1.mp4"))
    (tmp_path / "train.csv").write_text(KINETICS + f"{label},xx,30,40,train\n")
    assert classes_of(find(str(tmp_path / "train.csv")), tmp_path) == {"a/-ab_c1.mp4": "riding a bike"}
    assert "2 videos are left out, e.g. xx_000001_000011: several clips are of one uncut video" in caplog.text
    assert "1 videos have no times in their names" in caplog.text


@pytest.mark.parametrize("name", ["something-something-v1-{}.csv", "jester-v1-{}.csv"])
@pytest.mark.parametrize("labels", [True, False])
def test_something_something_v1_as_it_is_shipped(tmp_path, name, labels, caplog):
    for video in ("100218", "24413", "78687", "42326"):
        put(tmp_path, [f"20bn-data/{video}/{i:05d}.jpg" for i in range(1, 4)])
    names = ["Turning something upside down", "Putting something, on something"]
    if labels:
        (tmp_path / name.format("labels")).write_text("\n".join(names))
    (tmp_path / name.format("train")).write_text(f"100218;{names[0]}\n24413;{names[1]}\n")
    (tmp_path / name.format("validation")).write_text(f"78687;{names[1]}\n")
    (tmp_path / name.format("test")).write_text("42326\n")
    found = find(str(tmp_path))
    assert found.task == "video"
    assert found.classes == (names if labels else sorted(names))
    listed = {part: [(s.sample_id, s.label) for s in samples] for part, samples in found.parts.items()}
    first = found.classes.index(names[0])
    train = [("100218", first), ("24413", 1 - first)]
    assert listed == {"train": train, "val": [("78687", 1 - first)], "test": [("42326", -1)]}
    assert found.parts["train"][0].path == str(tmp_path / "20bn-data/100218")
    parts = divide(found, Look(), 0)
    assert {part: len(samples) for part, samples in parts.items()} == {"train": 2, "val": 1}
    assert "1 videos of test have no class in the lists and are left out" in found.notes
    assert not caplog.text  # of folders that were tried and are not the root


def test_json_of_videos_is_not_taken_for_images(tmp_path):
    put(tmp_path, ("a.mp4", "b.mp4"))
    (tmp_path / "train.json").write_text(json.dumps({"a.mp4": "cat", "b.mp4": "dog"}))
    with pytest.raises(ValueError, match=r"train\.json: expected a list of \{id, template, \.\.\.\}, found a dict"):
        find(str(tmp_path / "train.json"))
