import csv
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from video.toys import actions as synthetic
from video.toys.actions import (
    ACTIONS,
    EASY,
    HARD,
    ActionSet,
    appearances,
    labels_of,
    make_actions,
    make_clip,
    progress,
    write_clip,
)

TOOL = Path(__file__).parents[2] / "tools" / "data" / "make_actions.py"


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        return frames, stream.codec_context.name, float(stream.average_rate)


@pytest.mark.parametrize(("codec", "name", "suffix"), [("h264", "h264", "mp4"), ("vp9", "vp9", "webm")])
def test_files_are_real_and_hold_the_frames(tmp_path, codec, name, suffix):
    spec = ActionSet(train=1, val=1, test=1, frames=12, codec=codec, fps=20)
    out = make_actions(tmp_path / "set", spec)
    frames, found, fps = decode(out / f"clips/train/00000.{suffix}")
    drawn = make_clip(spec, "train", 0)[0]
    assert name in found
    assert frames.shape == drawn.shape == (12, 64, 64, 3)
    assert fps == pytest.approx(20)
    assert np.abs(frames.astype(float) - drawn).mean() < 12


def test_odd_sizes_are_refused_and_typos_hinted():
    with pytest.raises(ValueError, match="did you mean 'moving left'"):
        ActionSet(classes=("moving leftt",))
    with pytest.raises(ValueError, match="63"):
        ActionSet(size=63)
    with pytest.raises(ValueError, match="h264"):
        ActionSet(codec="h265")
    with pytest.raises(ValueError, match="kinetics"):
        ActionSet(layout="kinetic")
    with pytest.raises(ValueError, match="at least 2"):
        ActionSet(frames=1)


def test_classes_are_time_reversed_pairs():
    for names in (EASY, HARD):
        forward, back = ({ACTIONS[n][0]: n for n in names if ACTIONS[n][1] == turned} for turned in (False, True))
        assert forward.keys() == back.keys()
        assert len(forward) == len(names) / 2
    assert ACTIONS["moving right"][0] is ACTIONS["moving left"][0]


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_each_path_is_inside_and_moves(name):
    track, _ = ACTIONS[name]
    from xmodal.toys.shapes import Thing

    for seed in range(30):
        rng = np.random.default_rng(seed)
        path = track(rng, Thing("star", "red", 0.5, 0.5, 0.3), Thing("ring", "blue", 0.5, 0.5, 0.25))
        states = [path(p) for p in np.linspace(0, 1, 7)]
        for thing in (t for s in states for t in s):
            assert thing.size / 2 - 1e-6 <= thing.x <= 1 - thing.size / 2 + 1e-6
            assert thing.size / 2 - 1e-6 <= thing.y <= 1 - thing.size / 2 + 1e-6
        assert states[0][0] != states[-1][0]


def test_forward_and_reversed_classes_do_what_they_say():
    spec = ActionSet(classes=HARD, train=96, frames=9)
    labels = labels_of(spec, "train")

    def ends(name):
        """The path of an action at the start and at the end of its own time."""
        track, reverse = ACTIONS[name]
        from xmodal.toys.shapes import Thing

        path = track(
            np.random.default_rng(3), Thing("star", "red", 0.5, 0.5, 0.3), Thing("ring", "blue", 0.2, 0.2, 0.2)
        )
        first, last = path(0.0), path(1.0)
        return (last, first) if reverse else (first, last)

    assert sorted(set(labels)) == list(range(12))
    assert np.bincount(labels).tolist() == [8] * 12
    (a, _), (b, _) = ends("moving left")
    assert b.x < a.x
    (a, _), (b, _) = ends("moving down")
    assert b.y > a.y
    (a, _), (b, _) = ends("shrinking")
    assert b.size < a.size
    (a, _), (b, _) = ends("appearing")
    assert (a.alpha, b.alpha) == (0, 1)
    (a, u), (b, v) = ends("separating")
    assert np.hypot(b.x - v.x, b.y - v.y) > 2 * np.hypot(a.x - u.x, a.y - u.y)
    (a, _), (b, _) = ends("rotating clockwise")
    assert b.angle > a.angle + 0.8


WHAT_MOVES = {
    "moving right": lambda a, b: a.x, "moving left": lambda a, b: -a.x, "moving down": lambda a, b: a.y,
    "moving up": lambda a, b: -a.y, "growing": lambda a, b: a.size, "shrinking": lambda a, b: -a.size,
    "appearing": lambda a, b: a.alpha, "vanishing": lambda a, b: -a.alpha,
    "separating": lambda a, b: np.hypot(a.x - b.x, a.y - b.y),
    "approaching": lambda a, b: -np.hypot(a.x - b.x, a.y - b.y),
    "rotating clockwise": lambda a, b: a.angle, "rotating counterclockwise": lambda a, b: -a.angle,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_clips_show_the_action_of_their_class(name, monkeypatch):
    """What grows from frame to frame of the pictures drawn is what the name says; x is right, y down in a picture."""
    drawn = []
    monkeypatch.setattr(synthetic, "render", lambda things, *rest: drawn.append(things) or np.zeros((64, 64, 3)))
    spec = ActionSet(classes=HARD, train=24, frames=9)
    labels = labels_of(spec, "train")
    for index in [i for i, k in enumerate(labels) if HARD[k] == name]:
        drawn.clear()
        frames, label, look = make_clip(spec, "train", index)
        assert (len(frames), HARD[label]) == (9, name)
        actors = [next(t for t in things if (t.shape, t.color) == look[:2]) for things in drawn]
        others = [next(t for t in things if (t.shape, t.color) == look[2:]) for things in drawn]
        course = [WHAT_MOVES[name](a, b) for a, b in zip(actors, others, strict=True)]
        assert (np.diff(course) >= -1e-9).all()
        assert course[-1] - course[0] > 0.1


def test_labels_are_balanced_and_in_random_order():
    spec = ActionSet(train=80)
    labels = labels_of(spec, "train")
    assert np.bincount(labels).tolist() == [10] * 8
    assert labels != sorted(labels)
    assert labels[:8] != list(range(8))
    assert labels != labels_of(ActionSet(train=80, seed=1), "train")


def test_classes_are_numbered_in_alphabetical_order():
    spec = ActionSet(classes=("moving right", "growing", "moving left"))
    assert spec.classes == ("growing", "moving left", "moving right")


def test_time_course_is_symmetric_in_time():
    rng = np.random.default_rng(0)
    runs = np.stack([progress(rng, 32) for _ in range(2000)])
    assert (np.diff(runs, axis=1) >= 0).all()
    assert (runs[:, 0] == 0).all()
    assert (runs[:, -1] == 1).all()
    assert np.abs(runs.mean(0) - (1 - runs[:, ::-1]).mean(0)).max() < 0.02


def test_splits_share_no_appearance():
    for spec in (ActionSet(), ActionSet(classes=HARD, seed=4)):
        looks = {split: set(appearances(spec, split)) for split in ("train", "val", "test")}
        assert not looks["train"] & looks["test"]
        assert not looks["train"] & looks["val"]
        assert not looks["val"] & looks["test"]
        assert len(looks["train"]) > 400
        assert all(a[1] != a[3] for a in looks["train"])


def test_clips_are_seeded_and_all_different():
    spec = ActionSet(train=10, test=10, frames=4)
    first, again = make_clip(spec, "train", 5), make_clip(spec, "train", 5)
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], make_clip(spec, "test", 5)[0])
    assert not np.array_equal(first[0], make_clip(ActionSet(train=10, frames=4, seed=1), "train", 5)[0])


def test_splits_share_no_path(monkeypatch):
    """Clip i of one split is not clip i of another in other colors: the tilt of its actor is drawn anew."""
    drawn = []
    monkeypatch.setattr(synthetic, "render", lambda things, *rest: drawn.append(things) or np.zeros((64, 64, 3)))
    spec, tilts = ActionSet(train=6, val=6, test=6, frames=2), []
    for split in ("train", "val", "test"):
        for index in range(6):
            look = make_clip(spec, split, index)[2]
            tilts.append(next(t.angle for t in drawn[-1] if (t.shape, t.color) == look[:2]))
    assert len(set(tilts)) == 18


def test_standing_by_or_drifting():
    still, moving = (ActionSet(classes=("growing", "shrinking"), train=8, frames=8, moving=m) for m in (False, True))
    changed = [
        np.mean([np.abs(np.diff(make_clip(s, "train", i)[0].astype(float), axis=0)).mean() for i in range(8)])
        for s in (still, moving)
    ]
    assert changed[1] > changed[0]


def test_looks_say_nothing_about_order():
    """A frame from the middle, and the mean frame, of both classes of a pair have the same statistics."""
    spec = ActionSet(classes=("moving left", "moving right"), train=200, frames=9)
    means = {0: [], 1: []}
    for i in range(200):
        frames, label, _ = make_clip(spec, "train", i)
        means[label].append(frames.astype(np.float32).mean((0, 3)).mean(0))  # (W,)
    gap = np.abs(np.mean(means[0], 0) - np.mean(means[1], 0))
    spread = np.std(means[0] + means[1], 0) / np.sqrt(100)
    assert (gap < 5 * spread).all()


def test_list_layout(tmp_path):
    out = make_actions(tmp_path / "a", ActionSet(train=3, val=2, test=2, frames=3))
    lines = (out / "train.txt").read_text().splitlines()
    assert len(lines) == 3
    assert all((out / line.rsplit(" ", 1)[0]).exists() for line in lines)
    assert [int(line.rsplit(" ", 1)[1]) for line in lines] == labels_of(ActionSet(train=3), "train")
    assert (out / "classes.txt").read_text().splitlines() == sorted(EASY)
    stamp = (out / lines[0].split()[0]).stat().st_mtime_ns
    make_actions(out, ActionSet(train=3, val=2, test=2, frames=3))
    assert (out / lines[0].split()[0]).stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"another action set \(seed differ"):
        make_actions(out, ActionSet(train=3, val=2, test=2, frames=3, seed=1))


def test_kinetics_layout(tmp_path):
    out = make_actions(tmp_path / "a", ActionSet(train=3, val=2, test=2, frames=3, layout="kinetics"))
    rows = list(csv.DictReader((out / "train.csv").read_text().splitlines()))
    assert list(rows[0]) == ["label", "youtube_id", "time_start", "time_end", "split"]
    labels = labels_of(ActionSet(train=3), "train")
    for row, label in zip(rows, labels, strict=True):
        name = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4"
        assert (out / "train" / name).exists()
        assert row["label"] == EASY[label]


def test_ssv2_layout(tmp_path):
    spec = ActionSet(train=3, val=2, test=2, frames=3, layout="ssv2", codec="vp9")
    out = make_actions(tmp_path / "a", spec)
    entries = json.loads((out / "something-something-v2-train.json").read_text())
    labels = json.loads((out / "something-something-v2-labels.json").read_text())
    assert len(labels) == 8
    for entry, label in zip(entries, labels_of(spec, "train"), strict=True):
        first, *rest = EASY[label].split()
        assert entry["template"] == " ".join([first.capitalize(), "[something]", *rest])
        assert labels[entry["template"].replace("[", "").replace("]", "")] == str(label)
        assert (out / "videos" / f"{entry['id']}.webm").exists()
    assert len(json.loads((out / "something-something-v2-validation.json").read_text())) == 2


def test_folder_layout(tmp_path):
    out = make_actions(tmp_path / "a", ActionSet(train=8, val=0, test=0, frames=3, layout="folders"))
    assert sorted(p.name for p in (out / "train").iterdir()) == sorted(n.replace(" ", "_") for n in EASY)


def test_write_clip_makes_folders(tmp_path):
    write_clip(tmp_path / "x/y.mp4", np.zeros((3, 48, 64, 3), np.uint8), fps=25)
    frames, _, fps = decode(tmp_path / "x/y.mp4")
    assert frames.shape == (3, 48, 64, 3)
    assert fps == 25


def test_tool(tmp_path):
    args = ["--classes", "moving left", "moving right", "--train", "2", "--val", "1", "--test", "1", "--frames", "3"]
    done = subprocess.run([sys.executable, str(TOOL), str(tmp_path / "a"), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "a").rglob("*.mp4"))) == 4
    assert "2 classes" in done.stdout
