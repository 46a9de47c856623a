"""The benchmark compares formulations of the same numbers, and says what became of each claim."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.xmodal.test_model import refill
from tools import bench
from tools.benches import data, measure, video
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
