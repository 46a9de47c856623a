"""First and last lines of a run, a point of the curves every epoch, and a log file that has all of it."""

import json
import logging
import shlex

import pytest

from tests.engine.toy import CONFIG, write_config
from tests.tools.test_train_tools import tool
from xmodal.engine import launch


def train(folder, *options, text=CONFIG):
    return tool("train")([write_config(folder, text), "--work-dir", str(folder / "w"), "--cfg-options", *options])


def test_the_next_command_can_be_pasted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["xmodal train"])
    folder = tmp_path / "my runs"
    folder.mkdir()
    assert train(folder, "train_cfg.max_epochs=2") == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if "next: " in line)
    assert shlex.split(said.partition("next: ")[2]) == ["xmodal", "test", str(folder / "w/best.pth")]


def test_first_and_last_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["xmodal train"])
    assert train(tmp_path, "train_cfg.val_interval=1") == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "w/report.json").read_text())
    best = max(report["epochs"], key=lambda e: e["val"]["top1"])
    for line in (
        "data: 24 training samples; 13 to validate every epoch",
        "model: ToyModel, Linear: 33 of 75 weights trained (44.0 %)",
        "run: 4 epochs of 5 steps of 5 on cpu",
        "last.pth, best.pth, report.json, config.py, log ",
        f"best top1 {best['val']['top1']:.2f} after epoch {best['epoch']:g} of 4: {tmp_path / 'w/best.pth'}",
        f"next: xmodal test {tmp_path / 'w/best.pth'}",
    ):
        assert line in out, line
    assert "Hooks" not in out
    assert out.index("data: 24") < out.index("epoch 1/4") < out.index("best top1") < out.index("next: ")


def test_the_best_epoch_survives_a_resumption(tmp_path, capsys):
    assert train(tmp_path, "train_cfg.max_epochs=2", "train_cfg.val_interval=1", "optim_wrapper.optimizer.lr=0.0") == 0
    args = [str(tmp_path / "toy.py"), "--work-dir", str(tmp_path / "w"), "--resume", "--allow-changes", "--cfg-options"]
    assert tool("train")([*args, "train_cfg.val_interval=1", "optim_wrapper.optimizer.lr=0.0"]) == 0
    out = capsys.readouterr().out
    assert "10 of 20 steps are done" in out
    assert any("after epoch 1 of 4" in line for line in out.splitlines()[-4:])


def test_curves_have_a_point_for_every_epoch_whatever_the_interval(tmp_path):
    assert train(tmp_path, "default_hooks.progress.interval=50") == 0
    report = json.loads((tmp_path / "w/report.json").read_text())
    assert [point["step"] for point in report["history"]] == [5, 10, 15, 20]
    assert [point["loss"] for point in report["history"]] == pytest.approx(
        [epoch["train"]["loss"] for epoch in report["epochs"]], abs=1e-5
    )


def test_the_log_file_has_what_the_terminal_shows(tmp_path, capfd):
    text = CONFIG.replace("seed=99, test=True", "seed=99, test=True, broken=(4,)")
    cfg = launch.prepare(write_config(tmp_path, text), str(tmp_path / "w"), ["train_cfg.max_epochs=2"])
    runner = launch.train(cfg)
    logging.getLogger("xmodal.data").warning("unreadable video %s: torn", "x.mp4")
    (log,) = (tmp_path / "w").glob("*/*.log")
    shown = capfd.readouterr()
    written = log.read_text()
    assert "unreadable video x.mp4: torn" in written
    assert "unreadable video x.mp4: torn" in shown.err
    for line in shown.out.splitlines():
        assert line.split(" INFO - ")[-1] in written
    assert runner.iter == 10


def test_an_error_is_in_the_log_file(tmp_path, capsys):
    assert train(tmp_path, "optim_wrapper.optimizer.lr=1e30", "param_scheduler.warmup_epochs=0") == 2
    (log,) = (tmp_path / "w").glob("*/*.log")
    assert "error: " in log.read_text()


def test_curves_for_other_programs(tmp_path, capsys):
    args = [write_config(tmp_path), "--work-dir", str(tmp_path / "w"), "--log"]
    assert tool("train")([*args, "tensorbord"]) == 2
    assert "did you mean 'tensorboard'?" in capsys.readouterr().err
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        assert tool("train")([*args, "tensorboard"]) == 2
        assert "tensorboard is not installed: pip install tensorboard" in capsys.readouterr().err
    else:
        assert tool("train")([*args, "tensorboard"]) == 0
        assert list((tmp_path / "w").rglob("events.out.tfevents*"))


def test_long_waits_are_counted_where_there_is_no_terminal(monkeypatch):
    from xmodal.engine import logs

    said: list[str] = []
    monkeypatch.setattr(logs, "print_log", lambda text, logger: said.append(text))
    assert list(logs.counted([7, 8, 9], "cache: shards", 3, seconds=0.0)) == [7, 8, 9]
    assert said == [f"cache: shards: {i} of 3" for i in range(3)]
    assert list(logs.counted([7, 8, 9], "cache: shards", 3, seconds=60.0)) == [7, 8, 9]
    assert len(said) == 3
