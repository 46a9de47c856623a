"""The benchmark compares formulations of the same numbers, and says what became of each claim."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.xmodal.test_model import refill
from tools import bench
from tools.benches import clips, data, loader, measure, video
from video.decode import VideoFile

ARGS = SimpleNamespace(size="tiny", batch=1, frames=4)


@pytest.mark.parametrize("make", [video.st_adapter_model, video.evl_model])
def test_the_released_formulation_gives_the_same_numbers(make):
    models = [make(ARGS, plain=plain).eval() for plain in (True, False)]
    torch.manual_seed(0)
    refill(models[0])
    models[1].load_state_dict(models[0].state_dict())
    batch = video.clips_for(ARGS)
    torch.testing.assert_close(*(m.features(clips=batch["clips"]) for m in models), atol=1e-4, rtol=1e-4)
    for model in models:
        video.train_step((model, batch))
    kept = [{k: p.grad for k, p in m.named_parameters() if p.grad is not None} for m in models]
    assert set(kept[1]) <= set(kept[0])
    largest = max(grad.abs().max() for grad in kept[1].values())
    for key, grad in kept[1].items():
        torch.testing.assert_close(grad, kept[0][key], atol=1e-4 * float(largest), rtol=1e-3)
    dead = set(kept[0]) - set(kept[1])
    assert all(kept[0][key].abs().max() < 1e-5 * largest for key in dead), dead


def test_a_run_prints_and_writes_its_figures(tmp_path, capsys):
    out = tmp_path / "out.json"
    bench.main(["temporal-conv", "--size", "tiny", "--repeats", "1", "--peak", "--json", str(out)])
    assert "Conv3d with permutes" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert {"device", "threads", "commit", "load"} <= set(written["where"])
    assert [row["name"] for row in written["areas"]["temporal-conv"]] == ["Conv3d with permutes", "ours"]
    assert all(row["peak_mb"] > 0 for row in written["areas"]["temporal-conv"])


def test_claims_hold_or_are_missed():
    rows = [
        {"name": "a", "median_s": 2.0, "saved_mb": 10.0, "peak_mb": None},
        {"name": "b", "median_s": 1.0, "saved_mb": 6.0, "peak_mb": None},
    ]
    wanted = [measure.Wanted("time", "b", "a", 0.5), measure.Wanted("kept", "b", "a", 0.5)]
    found = measure.verdicts(rows, [*wanted, measure.Wanted("peak", "b", "a", 0.5)])
    assert [claim["holds"] for claim in found] == [True, False]
    assert "0.600, wanted at most 0.5: MISSED" in measure.claims_text(found)


def test_ways_of_reading_a_video_agree(tmp_path):
    path = data.write_video(tmp_path / "video.mp4", 2, 12)
    with VideoFile(path) as video:
        assert (video.num_frames, video.size) == (60, (256, 340))
    for convert in ("all", "picked"):
        np.testing.assert_array_equal(data.ours(path), data.everything(path, convert))


def test_ways_of_making_a_clip_agree(tmp_path):
    path = data.write_video(tmp_path / "video.mp4", 1, 12)
    assert torch.equal(clips.read(path), clips.read_before(path))
    for before, now in ((clips.k400_before, clips.K400), (clips.crop_before, clips.VIEWS)):
        for seed in range(4):
            want = before(path, np.random.default_rng(seed))
            got = clips.ours(now)(path, np.random.default_rng(seed))
            assert got.shape == want.shape == (1, 8, 3, 224, 224)
            off = (got.int() - want.int()).abs()
            assert off.max() <= 1
            assert (off > 0).float().mean() < 1e-3


def test_the_time_of_a_part_leaves_out_the_parts_inside(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 6.0])  # outside begins, inside begins, inside ends, outside ends
    monkeypatch.setattr(loader.time, "process_time", lambda: next(now))
    clock = loader.Clock()
    with clock.part("outside"):
        clock.around("inside", lambda: None)()
    assert clock.seconds == {"outside": 3.0, "inside": 3.0}


def test_the_loader_is_taken_apart_and_advised_on(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    data.write_video(tmp_path / "one" / "a.mp4", 2, 60)
    dataset = loader.VideoDataset(
        tmp_path, format="folders", num_frames=2, sampling={"type": "uniform"},
        transforms=[*clips.K400, {"type": "random_erasing", "prob": 1.0}],
    )  # fmt: skip
    rows = loader.parts_of(dataset, 1, 2)
    wanted = {
        "open and scan",
        "seek and decode",
        "colors",
        "resize, crop, flip",
        "RandomErasing",
        "collate",
        "the rest",
    }
    assert {row["part"] for row in rows} == wanted | ({"copy"} if torch.cuda.is_available() else set())
    assert dataset[0, 0]["clips"].shape == (1, 2, 3, 224, 224), "nothing stays patched"
    speeds = loader.worker_rows(dataset, [0, 1], 1000.0)
    assert speeds[1]["own MB"] > 0
    assert speeds[0]["headspace"] == pytest.approx(speeds[0]["samples/s"] / 1000)
    said = "\n".join(loader.advice(dataset, [{"part": "seek and decode", "ms": 9, "share": "90 %"}], speeds, 1000.0))
    assert "a key frame every 60 frames" in said
    assert "num_workers=" in said


def test_a_shared_list_is_measured_against_a_list_of_objects():
    rows = loader.million(3000)
    assert [(row["samples"].split(",")[0], row["start"]) for row in rows] == [
        ("tensors", "fork"), ("tensors", "spawn"), ("objects", "fork"), ("objects", "spawn"),
    ]  # fmt: skip
    assert all(row["own MB a worker"] > 0 for row in rows)


def test_only_the_loader_takes_a_config():
    assert bench.parse(["loader", "configs/some.py"]).config == "configs/some.py"
    assert bench.parse(["evl", "loader"]).config is None
    for words in (["loder"], ["evl", "configs/some.py"]):
        with pytest.raises(SystemExit):
            bench.parse(words)
