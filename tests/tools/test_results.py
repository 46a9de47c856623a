"""The standing table: every row's config is there, the page is what the rows make, and runs become rows."""

import json

import pytest
import torch

from tools import results
from xmodal.engine.checkpoint import FORMAT


def test_every_row_has_its_config_and_the_page_is_up_to_date():
    rows = results.read_rows()
    gone = [r["config"] for r in rows if not (results.ROOT / r["config"]).is_file()]
    assert not gone, f"rows of docs/results.json name configs that are gone: {gone}"
    assert len({results.key_of(r) for r in rows}) == len(rows)
    assert results.PAGE.read_text() == results.make_page(rows), "run `make results`"


def write(folder, seed, top1, config="probe_tiny-clip_8u_actions8"):
    folder.mkdir()
    command = (
        f"train.py configs/video/{config}.py --work-dir {folder} --seed {seed} --cfg-options cache.root={folder}/c a=1"
    )
    about = dict(config=config, seed=seed, command=command, seconds=10.0 + seed,
                 encoder={"encoder": "tiny"}, trained_parameters=1032, peak_mb=100.0 * seed)  # fmt: skip
    (folder / "report.json").write_text(json.dumps(about))
    (folder / "test.json").write_text(
        json.dumps({"command": f"test.py {folder}/last.pth", "test": {"top1": top1, "mAP": 9.0}})
    )
    return folder


def test_runs_of_three_seeds_become_a_row(tmp_path):
    folders = [write(tmp_path / str(s), s, v) for s, v in ((0, 20.0), (1, 30.0), (2, 25.0))]
    (row,) = results.rows_of_runs(folders, "actions8")
    assert row["accuracy"] == {"0": 20.0, "1": 30.0, "2": 25.0}
    assert (row["method"], row["trained"], row["seconds"], row["peak_mb"]) == ("probe", 1032, 11.0, 200.0)
    assert row["config"] == "configs/video/probe_tiny-clip_8u_actions8.py"
    assert (
        row["command"]
        == "python tools/train.py configs/video/probe_tiny-clip_8u_actions8.py --seed 0 --cfg-options a=1"
    )
    assert row["selection"] == "none (last step)"
    (other,) = results.rows_of_runs(folders, "rooms", method="3DETR", metric="mAP")
    assert (other["method"], other["accuracy"]["2"], other["metric"]) == ("3DETR", 9.0, "mAP")
    assert "## rooms, tiny (mAP)" in results.make_page([other])
    with pytest.raises(ValueError, match=r"test\.json has no mIoU; it has top1, mAP"):
        results.rows_of_runs(folders, "rooms", metric="mIoU")
    page = results.make_page([row])
    assert "25.00 +- 5.00 (3 seeds)" in page
    assert row["log"] in page
    other = write(tmp_path / "x", 3, 1.0, "lora_tiny-clip_8u_actions8")
    with pytest.raises(ValueError, match="several configs"):
        results.rows_of_runs([folders[0], other], "actions8")
    (other / "test.json").unlink()
    with pytest.raises(ValueError, match=r"has no test\.json"):
        results.rows_of_runs([other], "actions8")


def test_stored_bytes_are_those_of_the_weights(tmp_path):
    assert results.stored_bytes(tmp_path) is None
    weights = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.int64)}
    content = {"meta": {"format": FORMAT}, "state_dict": weights, "optimizer": {"kept": torch.zeros(1000)}}
    torch.save(content, tmp_path / "last.pth")
    assert results.stored_bytes(tmp_path) == 4 * 15 + 8 * 7  # a run without validation: no optimizer counted
    (tmp_path / "best.pth").write_bytes(b"x" * 99)
    assert results.stored_bytes(tmp_path) == 99


def test_tasks_with_several_encoders_have_one_order(tmp_path):
    (row,) = results.rows_of_runs([write(tmp_path / "0", 0, 20.0)], "actions8")
    names = ["a", "b", "c", "d", "e", "f", "g"]
    rows = [{**row, "encoder": name} for name in reversed(names)]
    assert results.tasks_of(rows) == [("actions8", name) for name in names]


def test_more_seeds_join_a_row(tmp_path):
    folders = [write(tmp_path / str(s), s, v) for s, v in ((0, 20.0), (1, 30.0), (2, 25.0))]
    (old,), (new,) = (results.rows_of_runs(part, "actions8") for part in (folders[:1], folders[1:]))
    row = results.joined([old], new)
    assert row["accuracy"] == {"0": 20.0, "1": 30.0, "2": 25.0}
    assert (row["seconds"], row["peak_mb"], row["command"]) == (11.0, 200.0, old["command"])  # (10 + 2 * 11.5) / 3
    assert row["log"] == f"{old['log']} {new['log']}"
    for other in ([], [dict(old, command=old["command"] + " b=2")], [dict(old, trained=1)]):
        with pytest.raises(ValueError, match="actions8 / tiny / probe has no row of the same command"):
            results.joined(other, new)


def test_a_few_shot_folder_becomes_rows_and_replaces_those_of_the_same_kind(tmp_path):
    for seed, score in ((1, 60.0), (2, 70.0)):
        path = tmp_path / "LP++" / f"shots4_seed{seed}"
        path.mkdir(parents=True)
        result = dict(method="LP++", shots=4, seed=seed, scores={"toy": score}, selected_on="val", trained_weights=10,
                      encoders={"clip": {"name": "tiny"}}, seconds=0.5)  # fmt: skip
        (path / "result.json").write_text(json.dumps(result))
    (row,) = results.rows_of_grid(tmp_path, "configs/fewshot/tiny-clip_negatives16.py")
    assert (row["task"], row["bytes"], row["cheap"], row["selection"]) == ("toy, 4 shots", 40, True, "val")
    old = {**row, "accuracy": {"1": 0.0}}
    assert results.merged([old], [row]) == [row]
    with pytest.raises(ValueError, match=r"no result\.json"):
        results.rows_of_grid(tmp_path / "nothing", "x")
