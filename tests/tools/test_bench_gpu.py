"""The benchmark of a card runs on a CPU at tiny sizes, so that it is not broken when a card comes."""

import json

import pytest

from tools.benches import gpu

QUICK = ["--device", "cpu", "--quick"]


def test_cases_run_are_kept_and_are_not_run_again(tmp_path, capsys, monkeypatch):
    path = tmp_path / "gpu.json"
    line = [*QUICK, "--json", str(path), "--only", "points farthest", "step st-adapter", "decode torchcodec, NVDEC"]
    first = gpu.main(line)["cases"]
    said = capsys.readouterr().out
    (points,) = (row for name, row in first.items() if name.startswith("points"))
    assert points["equal indices"]
    assert points["torch ms"] > 0
    (step,) = (row for name, row in first.items() if name.startswith("step"))
    assert step["clips/s"] == pytest.approx(1000 * step["clips"] / step["ms a step"])
    assert "Not measured:\n\n- decode torchcodec, NVDEC: " in said, "a case that cannot run gives its reason"
    assert f"| points farthest-points 256 (K = P/4, at most 2048) | {points['torch ms']:.4g} |" in said
    monkeypatch.setattr(gpu, "run", lambda case, device: {"error": "ran again"})
    again = gpu.main(line)["cases"]
    assert [name for name, row in again.items() if row == {"error": "ran again"}] == ["decode torchcodec, NVDEC"]
    assert json.loads(path.read_text())["cases"] == again


def test_time_that_is_over_leaves_the_rest_for_the_next_run(tmp_path, capsys):
    kept = gpu.main([*QUICK, "--json", str(tmp_path / "gpu.json"), "--minutes", "-1"])
    assert not kept["cases"]
    assert "run it again for the rest" in capsys.readouterr().out


def test_a_card_is_needed_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.parse([])


@pytest.mark.slow
def test_every_case_runs_at_a_tiny_size(tmp_path):
    cases = gpu.main([*QUICK, "--json", str(tmp_path / "gpu.json"), "--minutes", "20"])["cases"]
    failed = {name: row["error"] for name, row in cases.items() if "error" in row}
    assert set(failed) <= {"decode torchcodec, CPU", "decode torchcodec, NVDEC"}, failed
    assert 0.8 < cases["memory dry-run"]["ratio"] < 1.25
