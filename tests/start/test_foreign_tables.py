"""Tables in JSON, tables beside folders, UCF101's lists: each file has the class that a person reads there."""

import json

import pytest

from tests.start.test_foreign_lists import classes_of, put
from xmodal.start.found import find

PICTURES = ("pets/a_1.jpg", "pets/a_2.jpg", "pets/b_1.jpg", "pets/b_2.jpg")
ROWS = [{"image": "pets/a_1.jpg", "label": "cat"}, {"image": "pets/b_1.jpg", "label": "dog"}]
NAMED = {"pets/a_1.jpg": "cat", "pets/b_1.jpg": "dog"}
ENTRIES = {
    "xx": {"annotations": {"label": "run", "segment": [1.0, 11.0]}, "subset": "train", "url": "https://x"},
    "-y_z": {"annotations": {"label": "tap dancing", "segment": [10.0, 20.0]}, "subset": "train"},
}
TABLES = {
    "a list of objects": ("train.json", json.dumps(ROWS), NAMED),
    "an object in each line": ("train.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n", NAMED),
    "CoOp's splits": (
        "split_zhou_P.json", json.dumps({"train": [["pets/a_1.jpg", 5, "cat"], ["pets/b_1.jpg", 2, "dog"]]}), NAMED),
    "names of files without endings": ("train.csv", "id,label\na_1,cat\nb_1,dog\n", NAMED),
    "Kinetics": (
        "train.json", json.dumps(ENTRIES),
        {"v/xx_000001_000011.mp4": "run", "v/-y_z_000010_000020.mp4": "tap dancing"}),
    "Diving48": (
        "V2_train.json", json.dumps([{"vid_name": "a", "label": 1}, {"vid_name": "b", "label": 0, "end_frame": 9}]),
        {"rgb/a.mp4": "1", "rgb/b.mp4": "0"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_tables(tmp_path, kind):
    name, text, wanted = TABLES[kind]
    put(tmp_path, {*wanted, *(PICTURES if wanted is NAMED else ())})
    (tmp_path / name).write_text(text)
    found = find(str(tmp_path / name))
    assert classes_of(found, tmp_path) == wanted
    assert sorted(found.classes) == sorted(set(wanted.values()))


def test_several_labels_in_json(tmp_path):
    put(tmp_path, PICTURES)
    rows = [{"file_name": "pets/a_1.jpg", "labels": ["cat", "indoor"]}, {"file_name": "pets/b_1.jpg", "labels": []}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    found = find(str(tmp_path / "t.json"))
    assert [s.labels for s in found.parts["all"]] == [(0, 1), ()]
    assert found.classes == ["cat", "indoor"]


@pytest.mark.parametrize("whole", [True, False])
def test_the_splits_of_coop_are_kept(tmp_path, whole):
    put(tmp_path, PICTURES)
    path = tmp_path / "split_zhou_Pets.json"
    splits = {"train": ["a_1", "b_1"], "val": ["a_2"], "test": ["b_2"]}
    rows = {
        part: [[f"{n}.jpg", ord(n[0]) - 97, "cat" if n[0] == "a" else "dog"] for n in s] for part, s in splits.items()
    }
    path.write_text(json.dumps(rows))
    found = find(str(tmp_path if whole else path))
    assert found.classes == ["cat", "dog"]
    assert {part: [s.path for s in samples] for part, samples in found.parts.items()} == {
        part: [f"{tmp_path}/pets/{n}.jpg" for n in names] for part, names in splits.items()
    }
    assert [s.label for s in found.parts["train"]] == [0, 1]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_image_folders_with_metadata(tmp_path, ending):
    put(tmp_path, ("train/a.jpg", "train/b.jpg", "test/c.jpg"))
    for part, rows in {"train": {"a.jpg": "cat", "b.jpg": "dog"}, "test": {"c.jpg": "dog"}}.items():
        lines = [json.dumps({"file_name": k, "label": v}) if ending == "jsonl" else f"{k},{v}" for k, v in rows.items()]
        (tmp_path / part / f"metadata.{ending}").write_text("\n".join(["file_name,label"] * (ending == "csv") + lines))
    found = find(str(tmp_path))
    assert classes_of(found, tmp_path) == {"train/a.jpg": "cat", "train/b.jpg": "dog", "test/c.jpg": "dog"}
    assert {part: len(samples) for part, samples in found.parts.items()} == {"train": 2, "test": 1}


def test_folders_of_splits_are_no_classes(tmp_path):
    put(tmp_path, ("train/a.jpg", "train/b.jpg", "test/c.jpg"))
    with pytest.raises(ValueError, match=r"test, train hold neither a folder for each class nor one of metadata\.csv"):
        find(str(tmp_path))


def test_folders_without_files_are_no_classes(tmp_path):
    put(tmp_path, ("run/a.avi", "walk/b.avi", "splits/run_test_split1.txt"))
    found = find(str(tmp_path))
    assert classes_of(found, tmp_path) == {"run/a.avi": "run", "walk/b.avi": "walk"}
    assert found.classes == ["run", "walk"]
    assert found.notes == ["folders without videos are no classes: splits"]


@pytest.mark.parametrize("names", [True, False])
def test_lists_of_ucf101(tmp_path, names):
    films = ("ApplyEyeMakeup/v_A_g01_c01.avi", "Archery/v_B_g01_c01.avi", "Archery/v_B_g02_c01.avi")
    put(tmp_path, [f"UCF-101/{film}" for film in films])
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "trainlist01.txt").write_text(f"{films[0]} 1\n{films[1]} 2\n")
    if names:
        (folder / "testlist01.txt").write_text(f"{films[2]}\n")
        (folder / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\n")
    found = find(str(folder / "trainlist01.txt"))
    assert found.classes == (["ApplyEyeMakeup", "Archery"] if names else ["1", "2"])
    labels = {part: [(s.path.rpartition("/")[2][2], s.label) for s in samples] for part, samples in found.parts.items()}
    assert labels == {"train": [("A", 0), ("B", 1)], **({"test": [("B", 1)]} if names else {})}


def test_texts_beside_pictures_do_not_make_them_clouds(tmp_path):
    put(tmp_path, [f"{kind}/{i}.{ending}" for kind in ("cat", "dog") for i in "12" for ending in ("jpg", "txt", "csv")])
    assert find(str(tmp_path)).task == "image"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": [{"id": 1}], "annotations": [{"id": 1}], "categories": [{"id": 1}]}, "found 'images': list"),
        ({"a.jpg": {"label": 3}}, "found 'a.jpg': dict"),
        ([{"url": "x", "label": 3}], "no column of paths among .'url', 'label'."),
        ([], "found a list"),
    ],
)
def test_other_json_is_refused(tmp_path, content, said):
    put(tmp_path, PICTURES)
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"train\.json: .*{said}"):
        find(str(tmp_path / "train.json"), "image")
