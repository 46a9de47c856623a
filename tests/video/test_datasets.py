"""Annotations of every kind, broken videos, and workers."""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.video import videos
from video.annotations import VIDEOS
from video.datasets import VideoDataset
from video.decode import VideoFile
from xmodal.data.annotations import Sample, write_list
from xmodal.data.broken import TooManyBrokenFilesError
from xmodal.data.class_names import read_classes
from xmodal.registry import DATASETS, build

TRAIN = {"num_frames": 4, "sampling": {"type": "uniform"}, "size": 32}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Twelve videos; video k shows numbers 0 to 23 and is k + 64 pixels high, so that each can be told."""
    folder = tmp_path_factory.mktemp("shelf")
    for number in range(12):
        videos.write_video(folder / f"video {number}.mp4", frames=24, size=(64 + 2 * number, 96))
    return folder


@pytest.fixture
def annotation(shelf, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"video {number}.mp4 {number % 3}\n" for number in range(12)))
    return path


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4 3", "a.mp4", 3),
        ("my holiday 12 take 2.mp4 0", "my holiday 12 take 2.mp4", 0),
        ("my holiday.mp4\t10", "my holiday.mp4", 10),
        ("a, b.mp4, 7", "a, b.mp4", 7),
        ("a.mp4,7", "a.mp4", 7),
        ('"quoted name.mp4",7', "quoted name.mp4", 7),
        ("sub/täglich.mp4   4  ", "sub/täglich.mp4", 4),
        ("#1.mp4 1", "#1.mp4", 1),
    ],
)
def test_lines_of_lists(tmp_path, line, path, label):
    touch(tmp_path, path)
    (tmp_path / "list.txt").write_text(f"\n{line}\r\n", encoding="utf-8-sig")
    listing = VIDEOS.read(tmp_path / "list.txt")
    assert listing.samples == [Sample(str(tmp_path / path), label, path)]


def test_absolute_paths_other_roots_and_round_trip(tmp_path):
    touch(tmp_path / "videos", "a b.mp4", "c.mp4")
    absolute = tmp_path / "videos" / "a b.mp4"
    (tmp_path / "list.txt").write_text(f"{absolute} 0\nc.mp4 1\n")
    listing = VIDEOS.read(tmp_path / "list.txt", root=tmp_path / "videos")
    assert [s.path for s in listing.samples] == [str(absolute), str(tmp_path / "videos" / "c.mp4")]
    write_list(tmp_path / "again.txt", listing.samples)
    again = VIDEOS.read(tmp_path / "again.txt")
    assert [(s.path, s.label) for s in again.samples] == [(s.path, s.label) for s in listing.samples]


def test_class_names_in_lists(tmp_path):
    touch(tmp_path, "a.mp4", "b c.mp4")
    (tmp_path / "list.csv").write_text("a.mp4,push up\nb c.mp4,run\n")
    (tmp_path / "classes.txt").write_text("run\npush up\n")
    listing = VIDEOS.read(tmp_path / "list.csv", classes=tmp_path / "classes.txt")
    assert [s.label for s in listing.samples] == [1, 0]
    assert listing.classes == ["run", "push up"]
    with pytest.raises(ValueError, match=r"list\.csv:1.*'push up'.*did you mean 'push ups'"):
        VIDEOS.read(tmp_path / "list.csv", classes=["run", "push ups"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.mp4 0\na.mp4\n", r"list\.txt:2.*whole number.*'a\.mp4'"),
        ("a.mp4 -1\n", r"list\.txt:1.*negative label -1"),
        ("a.mp4 0\na.mp4 9\n", r"list\.txt:2: label 9, but there are 2 classes"),
        ("elsewhere/a.mp4 0\n", r"none of the first 1 videos.*elsewhere.*root is"),
        ("\n", "no videos"),
    ],
)
def test_mistakes_in_lists_name_file_line_and_fix(tmp_path, text, says):
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=says):
        VIDEOS.read(tmp_path / "list.txt", classes=["x", "y"])


def test_mistaken_arguments(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    with pytest.raises(ValueError, match="did you mean 'kinetics'"):
        VIDEOS.read(tmp_path / "list.txt", format="kinetic")
    with pytest.raises(ValueError, match="does not exist"):
        VIDEOS.read(tmp_path / "lost.txt")
    with pytest.raises(ValueError, match="not a folder"):
        VIDEOS.read(tmp_path / "list.txt", root=tmp_path / "nowhere")


def test_class_files(tmp_path):
    (tmp_path / "a.json").write_text('{"b": "1", "a": 0}')
    (tmp_path / "b.json").write_text('{"0": "a", "1": "b"}')
    (tmp_path / "c.json").write_text('["a", "b"]')
    assert [read_classes(tmp_path / f"{n}.json") for n in "abc"] == [["a", "b"]] * 3
    (tmp_path / "d.json").write_text('{"a": 1, "b": 2}')
    with pytest.raises(ValueError, match="0 to 1"):
        read_classes(tmp_path / "d.json")
    (tmp_path / "e.json").write_text('{"a": 1,\n b}')
    with pytest.raises(ValueError, match=r"e\.json:2: not valid JSON"):
        read_classes(tmp_path / "e.json")
    with pytest.raises(ValueError, match="'a' occurs twice"):
        read_classes(["a", "a"])


KINETICS = """label,youtube_id,time_start,time_end,split
"tying knot (not on a tie)",0123456789_,120,130,val
push up,-abcdefghij,5,15,val
push up,gonegonegon,0,10,val
"""


@pytest.mark.parametrize("layout", ["{name}", "val/{name}", "{label}/{name}", "val/{under}/{name}"])
def test_kinetics(tmp_path, caplog, layout):
    names = ["0123456789__000120_000130", "-abcdefghij_000005_000015"]
    labels = ["tying knot (not on a tie)", "push up"]
    for name, label in zip(names, labels, strict=True):
        touch(tmp_path / "data", layout.format(name=name + ".mp4", label=label, under=label.replace(" ", "_")))
    touch(tmp_path / "data", "train/-abcdefghij_000005_000015.mkv")  # another split's copy is not taken before ours
    (tmp_path / "val.csv").write_text(KINETICS)
    with caplog.at_level(logging.WARNING):
        listing = VIDEOS.read(tmp_path / "val.csv", root=tmp_path / "data")
    assert listing.classes == ["push up", "tying knot (not on a tie)"]  # in alphabetical order, not of appearance
    assert [(s.label, s.sample_id) for s in listing.samples] == [(1, names[0]), (0, names[1])]
    assert "/train/" not in listing.samples[1].path or "val/" not in layout
    assert listing.missing == ["gonegonegon_000000_000010"]
    assert "1 of 3 videos" in caplog.text


def test_kinetics_with_given_classes_and_fractions_of_seconds(tmp_path):
    """Given classes decide; underscores may stand for spaces; times are cut to whole seconds, as downloaders do."""
    touch(tmp_path, "b_000001_000011.MP4", "a_000000_000010.mkv", ".b_000001_000011.mp4")
    (tmp_path / "x.csv").write_text("label,youtube_id,time_start,time_end\npush_up,a,0.0,10\nrun,b,1.9,11.9\n")
    listing = VIDEOS.read(tmp_path / "x.csv", classes=["run", "push up"])
    assert [(s.label, s.sample_id) for s in listing.samples] == [(1, "a_000000_000010"), (0, "b_000001_000011")]
    assert listing.classes == ["run", "push up"]
    assert listing.samples[1].path.endswith("/b_000001_000011.MP4")
    (tmp_path / "classes.txt").write_text("walk\n\npush up\nrun\n")
    assert [s.label for s in VIDEOS.read(tmp_path / "x.csv", classes=tmp_path / "classes.txt").samples] == [1, 2]


def test_kinetics_without_labels_and_with_mistakes(tmp_path):
    touch(tmp_path, "a_000000_000010.mp4")
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\na,0,10,test\n")
    listing = VIDEOS.read(tmp_path / "test.csv")
    assert [s.label for s in listing.samples] == [-1]
    with pytest.raises(ValueError, match=r"without a class.*test_mode"):
        VideoDataset(tmp_path / "test.csv")
    (tmp_path / "x.csv").write_text("label,youtube_id,start,time_end\nl,a,0,10\n")
    with pytest.raises(ValueError, match="no column 'time_start'"):
        VIDEOS.read(tmp_path / "x.csv")
    (tmp_path / "y.csv").write_text("label,youtube_id,time_start,time_end\nl,a,zero,10\n")
    with pytest.raises(ValueError, match=r"y\.csv:2.*seconds"):
        VIDEOS.read(tmp_path / "y.csv")
    (tmp_path / "z.csv").write_text("label,youtube_id,time_start,time_end\nl,b,0,10\n")
    with pytest.raises(ValueError, match=r"all 1 are missing.*b_000000_000010"):
        VIDEOS.read(tmp_path / "z.csv")


def test_something_something(tmp_path):
    touch(tmp_path / "videos", "10.webm", "11.webm")
    (tmp_path / "something-something-v2-labels.json").write_text(
        json.dumps({"Pushing something from left to right": "1", "Holding something": "0"})
    )
    entry = {"label": "pushing a pen from left to right", "template": "Pushing [something] from left to right"}
    entries = [{"id": "10", **entry}, {"id": "11", **entry, "template": "Holding [something]"}, {"id": "12", **entry}]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    listing = VIDEOS.read(tmp_path / "train.json", root=tmp_path / "videos")
    assert [(s.sample_id, s.label) for s in listing.samples] == [("10", 1), ("11", 0)]
    assert listing.missing == ["12"]
    assert listing.classes == ["Holding something", "Pushing something from left to right"]
    (tmp_path / "test.json").write_text(json.dumps([{"id": "10"}]))
    assert VIDEOS.read(tmp_path / "test.json", root=tmp_path / "videos").samples[0].label == -1
    (tmp_path / "bad.json").write_text(json.dumps([{"id": "10", "template": "Holding [somethin]"}]))
    with pytest.raises(ValueError, match=r"bad\.json: entry 0.*did you mean 'Holding something'"):
        VIDEOS.read(tmp_path / "bad.json", root=tmp_path / "videos")
    (tmp_path / "something-something-v2-labels.json").unlink()
    with pytest.raises(ValueError, match="labels file"):
        VIDEOS.read(tmp_path / "train.json", root=tmp_path / "videos")


def test_folders(tmp_path):
    touch(tmp_path, "run/a.mp4", "run/deep/b c.webm", "push_up/d.avi", "run/notes.txt")
    listing = VIDEOS.read(tmp_path)
    assert listing.classes == ["push_up", "run"]
    assert [(s.sample_id, s.label) for s in listing.samples] == [
        ("push_up/d.avi", 0),
        ("run/a.mp4", 1),
        ("run/deep/b c.webm", 1),
    ]
    assert [s.label for s in VIDEOS.read(tmp_path, classes=["run", "push up"]).samples] == [1, 0, 0]
    assert VIDEOS.read(tmp_path, classes=["run", "push up"]).classes == ["run", "push up"]
    with pytest.raises(ValueError, match="no class is called 'push up'"):
        VIDEOS.read(tmp_path, classes=["run"])


def test_folders_are_classes_in_alphabetical_order_however_they_were_made(tmp_path):
    names = ["m", "z", "a", "k", "q", "c", "x", "b"]
    touch(tmp_path, *(f"{name}/{video}.mp4" for name in names for video in "cab"), ".cache/x.mp4", "a/.hidden.mp4")
    touch(tmp_path / "other", "x/z.mp4", "x/deep/b.mp4")
    assert [s.sample_id for s in VIDEOS.read(tmp_path / "other").samples] == ["x/deep/b.mp4", "x/z.mp4"]
    shutil.rmtree(tmp_path / "other")
    listing = VIDEOS.read(tmp_path)
    assert listing.classes == sorted(names)
    assert [s.sample_id for s in listing.samples] == [
        f"{name}/{video}.mp4" for name in sorted(names) for video in "abc"
    ]
    assert [s.label for s in listing.samples] == [k for k in range(8) for _ in range(3)]


def test_films_of_linked_folders_are_found_and_the_first_of_two_is_taken(tmp_path):
    touch(tmp_path / "elsewhere", "8.webm")
    touch(tmp_path / "videos", *(f"{folder}/7.webm" for folder in "dbeca"))
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train.json").write_text(json.dumps([{"id": 8, "template": "Holding [something]"}, {"id": 7}]))
    listing = VIDEOS.read(tmp_path / "train.json", root=tmp_path / "videos", classes=["Holding something"])
    assert [(s.sample_id, s.label) for s in listing.samples] == [("8", 0), ("7", -1)]
    assert listing.samples[1].path == str(tmp_path / "videos" / "a" / "7.webm")


def test_something_something_takes_the_indices_of_the_labels_file(tmp_path):
    """Not the order in the file, nor of appearance, nor of the alphabet."""
    touch(tmp_path / "videos", "1.webm", "2.webm", "3.webm")
    labels = {"Pushing something": "2", "Holding something": "0", "Moving something up": "1"}
    (tmp_path / "something-something-v2-labels.json").write_text(json.dumps(labels))
    entries = [{"id": str(i), "template": t} for i, t in ((1, "Moving [something] up"), (2, "Pushing [something]"))]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    listing = VIDEOS.read(tmp_path / "train.json", root=tmp_path / "videos")
    assert [s.label for s in listing.samples] == [1, 2]
    assert listing.classes == ["Holding something", "Moving something up", "Pushing something"]
    given = VIDEOS.read(tmp_path / "train.json", root=tmp_path / "videos", classes=list(labels))
    assert [s.label for s in given.samples] == [2, 0]


def test_some_films_may_be_missing_from_a_list(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("gone.mp4 0\na.mp4 1\n")
    assert [s.label for s in VIDEOS.read(tmp_path / "list.txt").samples] == [0, 1]
    with pytest.raises(ValueError, match="label 1, but there are 1 classes"):
        VIDEOS.read(tmp_path / "list.txt", classes=["x"])


def test_written_lists_survive_spaces_and_other_folders(tmp_path, monkeypatch):
    touch(tmp_path / "videos", "a 1.mp4")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    write_list(tmp_path / "out" / "list.txt", [Sample("videos/a 1.mp4", 3, "x")])
    assert (tmp_path / "out" / "list.txt").read_text() == f"{tmp_path}/videos/a 1.mp4\t3\n"


# ---------------------------------------------------------------- items


def test_training_items(shelf, annotation):
    data = build(
        {"type": "video", "annotation": annotation, "root": shelf, **TRAIN, "transforms": [
            {"type": "random_resized_crop", "size": 32}, {"type": "flip"}
        ]}, DATASETS
    )  # fmt: skip
    assert (len(data), data.num_classes, data.labels[:4], data.classes) == (12, 3, [0, 1, 2, 0], None)
    item = data[(0, 4)]
    assert item["clips"].shape == (1, 4, 3, 32, 32)
    assert item["clips"].dtype == torch.uint8
    assert (item["label"], item["sample_id"]) == (1, "video 4.mp4")
    assert torch.equal(data[(0, 4)]["clips"], item["clips"])
    assert torch.equal(data[4]["clips"], item["clips"])
    assert not torch.equal(data[(1, 4)]["clips"], item["clips"])
    other_seed = VideoDataset(annotation, shelf, seed=1, transforms=data.transforms, **TRAIN)
    assert not torch.equal(other_seed[(0, 4)]["clips"], item["clips"])
    with pytest.raises(IndexError, match="0 to 11"):
        data[12]


def test_clips_hold_the_frames_that_the_sampler_asked_for(shelf, annotation):
    data = VideoDataset(annotation, shelf, num_frames=5, sampling={"type": "dense", "stride": 3})
    clip = data[(3, 2)]["clips"][0].permute(0, 2, 3, 1).numpy()
    expected = data.sampling.train(24, np.random.default_rng([0, 3, 2]))
    assert clip.shape[1:] == (68, 96, 3)
    assert videos.numbers_of(clip) == expected.tolist()
    test = VideoDataset(
        annotation, shelf, num_frames=5, sampling={"type": "dense", "stride": 3}, size=68,
        spatial_views=1, temporal_views=3, test_mode=True,
    )  # fmt: skip
    item = test[2]
    assert item["clips"].shape == (3, 5, 3, 68, 68)
    assert item["clips"].dtype == torch.float32
    source = data.samples[2].path
    for view, indices in zip(item["clips"], test.sampling.test(24, 3), strict=True):
        frames = torch.from_numpy(VideoFile(source).read(indices)).permute(0, 3, 1, 2).float()
        assert torch.equal(view, frames[..., 14:82])  # 68 px high already: nothing is resized, the center is cut


def test_short_side_at_reading_is_the_same_in_training_and_testing(shelf, annotation):
    train = VideoDataset(annotation, shelf, short_side=40, **TRAIN)
    assert min(train[5]["clips"].shape[-2:]) == 40
    test = VideoDataset(annotation, shelf, short_side=40, test_mode=True, **TRAIN)
    item = test[5]
    assert item["clips"].shape == (1, 4, 3, 32, 32)
    frames = VideoFile(test.samples[5].path).read(test.sampling.test(24)[0], 40)  # (4, 40, 51, 3)
    small = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(small, (32, 32 * small.shape[-1] // 40), mode="bicubic")
    left = (small.shape[-1] - 32) // 2
    assert torch.allclose(item["clips"][0], small[..., left : left + 32], atol=1e-3)


def test_views_of_a_video_in_space_and_time(tmp_path):
    """Left, center, right of each of two clips, the clips innermost; resized as asked."""
    source = videos.write_video(tmp_path / "a.mp4", frames=24, size=(64, 96))
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    given = dict(num_frames=2, sampling={"type": "uniform"}, size=32, spatial_views=3, temporal_views=2, test_mode=True)
    for interpolation in ("bicubic", "bilinear"):
        clips = VideoDataset(tmp_path / "list.txt", interpolation=interpolation, **given)[0]["clips"]
        frames = torch.from_numpy(VideoFile(source).read(range(24))).permute(0, 3, 1, 2).float()
        small = torch.nn.functional.interpolate(frames, (32, 48), mode=interpolation, align_corners=False)
        # 24 frames in two segments, borders 0, 12 (11.5 rounded to even), 23; views at a third and two thirds of each
        rows = [[0 + 12 // 3, 12 + 11 // 3], [0 + 24 // 3, 12 + 22 // 3]]
        want = torch.stack([small[row][..., left : left + 32] for left in (0, 8, 16) for row in rows])
        assert torch.allclose(clips, want, atol=1e-3)
    default = VideoDataset(tmp_path / "list.txt", test_mode=True)
    assert default[0]["clips"].shape == (1, 8, 3, 224, 224)
    assert default.crops.interpolation == "bicubic"
    assert default.sampling.test(300).tolist() == [[93 + 16 * i for i in range(8)]]  # dense, 16 frames apart


def test_transforms_come_in_order_and_may_change_the_label(shelf, annotation):
    pairs = {"type": "flip", "prob": 1.0, "label_pairs": [(1, 7)]}
    clip = {"type": "random_crop", "size": 40}
    data = VideoDataset(annotation, shelf, **{**TRAIN, "transforms": [pairs, clip]})
    item, untouched = data[(0, 4)], VideoDataset(annotation, shelf, **TRAIN)[(0, 4)]
    assert (untouched["label"], item["label"]) == (1, 7)
    assert item["clips"].shape[-2:] == (40, 40)
    swapped = {"type": "flip", "prob": 1.0, "label_pairs": [(7, 5)]}
    both = VideoDataset(annotation, shelf, **{**TRAIN, "transforms": [pairs, swapped]})[(0, 4)]
    assert both["label"] == 5
    assert torch.equal(both["clips"], untouched["clips"])  # mirrored twice


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sampling": {"type": "dense", "stide": 2}}, "did you mean 'stride'"),
        ({"sampling": {"type": "uniform", "num_frames": 5}}, "takes 5 frames, but num_frames is 4"),
        ({"transforms": [{"type": "flip", "probb": 1}]}, "did you mean 'prob'"),
        ({"spatial_views": 2}, "1 .* or 3"),
        ({"temporal_views": 0}, "at least 1"),
        ({"interpolation": "nearest"}, "bicubic"),
    ],
)
def test_mistaken_options(shelf, annotation, options, says):
    with pytest.raises(ValueError, match=says):
        VideoDataset(annotation, shelf, **{**TRAIN, **options})


# ---------------------------------------------------------------- broken videos


@pytest.fixture
def damaged(shelf, tmp_path):
    """Two of twelve videos cannot be read."""
    (tmp_path / "torn.mp4").write_bytes((shelf / "video 1.mp4").read_bytes()[:900])
    names = [str(shelf / f"video {k}.mp4") for k in range(12)]
    names[1], names[7] = str(tmp_path / "torn.mp4"), str(tmp_path / "lost.mp4")
    path = tmp_path / "damaged.txt"
    path.write_text("".join(f"{name} {k}\n" for k, name in enumerate(names)))
    return path


def test_training_replaces_broken_films_and_says_so_once(damaged, caplog):
    def ids(data):
        return [data[(epoch, 1)]["sample_id"] for epoch in range(15)]

    first = VideoDataset(damaged, **TRAIN)
    with caplog.at_level(logging.WARNING):
        drawn = ids(first)
    assert caplog.text.count("unreadable video") == len(first.broken)
    assert re.search(r"unreadable video .*torn\.mp4: invalid data", caplog.text, re.IGNORECASE)
    assert "torn.mp4" in first.broken[0]
    assert not any("torn" in name or "lost" in name for name in drawn)
    assert len(set(drawn)) > 2
    assert ids(first) == drawn
    fresh = VideoDataset(damaged, **TRAIN)
    assert [fresh[(epoch, 1)]["sample_id"] for epoch in reversed(range(15))] == drawn[::-1]
    item, label = first[(2, 1)], first.samples[[s.sample_id for s in first.samples].index(drawn[2])].label
    assert item["label"] == label


def test_testing_reports_broken_video(damaged):
    data = VideoDataset(damaged, test_mode=True, **TRAIN)
    items = [data[index] for index in range(12)]
    skipped = [item for item in items if "skipped" in item]
    assert [item["skipped"].rsplit("/")[-1] for item in skipped] == ["torn.mp4", "lost.mp4"]
    assert "no such file" in skipped[1]["reason"]
    assert sum("clips" in item for item in items) == 10
    assert len(data.broken) == 2


@pytest.mark.parametrize("test_mode", [False, True])
def test_too_many_broken_films_stop_the_run(tmp_path, shelf, test_mode):
    (tmp_path / "text.mp4").write_text("nothing")
    lines = [f"{tmp_path / 'text.mp4'} 0\n"] * 8 + [f"{shelf / 'video 0.mp4'} 0\n"] * 12
    (tmp_path / "list.txt").write_text("".join(lines))
    data = VideoDataset(tmp_path / "list.txt", test_mode=test_mode, **TRAIN)
    with pytest.raises(TooManyBrokenFilesError, match=r"6 of 20 videos .*text\.mp4.*check_videos") as caught:
        list(map(data.__getitem__, range(8)))
    assert "max_broken=0.01 allows 5" in str(caught.value)
    patient = VideoDataset(tmp_path / "list.txt", test_mode=test_mode, max_broken=0.5, **TRAIN)
    for index in range(20):
        patient[index]


def test_nothing_readable_ends(tmp_path):
    (tmp_path / "text.mp4").write_text("nothing")
    (tmp_path / "list.txt").write_text("text.mp4 0\n" * 3)
    with pytest.raises(TooManyBrokenFilesError, match="in a row"):
        VideoDataset(tmp_path / "list.txt", max_broken=1.0, **TRAIN)[0]


# ---------------------------------------------------------------- workers


def first(batch):
    return batch[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_see_the_same_and_share_what_is_broken(damaged, context):
    data = VideoDataset(damaged, **TRAIN)
    alone = [VideoDataset(damaged, **TRAIN)[(0, k)]["clips"] for k in range(12)]
    loader = DataLoader(
        data, batch_size=1, sampler=[(0, k) for k in range(12)], num_workers=2 if context == "fork" else 1,
        multiprocessing_context=context, collate_fn=first, timeout=60,
    )  # fmt: skip
    for item, expected in zip(loader, alone, strict=True):
        assert torch.equal(item["clips"], expected)
    assert len(data.broken) == 2  # found out by the workers
