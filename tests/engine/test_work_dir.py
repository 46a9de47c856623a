"""One run in a work directory at a time, and nothing of an earlier one is overwritten."""

import fcntl

import pytest
import torch

from tests.engine.toy import CONFIG, write_config
from xmodal.engine import launch
from xmodal.engine.checkpoint import read


def train(folder, *options, work="w", resume=None):
    return launch.train(launch.prepare(write_config(folder, CONFIG), str(folder / work), options), resume)


def test_a_second_run_waits_for_the_first(tmp_path):
    (tmp_path / "w").mkdir()
    with open(tmp_path / "w" / "run.lock", "w") as lock:
        lock.write("process 7 on node3\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        for resume in (None, "auto"):
            with pytest.raises(ValueError, match=r"another run \(process 7 on node3\) is writing to .*--work-dir"):
                train(tmp_path, resume=resume)
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["run.lock"]
    assert train(tmp_path).iter == 20  # a lock file without its process holds nothing


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path):
    train(tmp_path)
    before = (tmp_path / "w" / "last.pth").read_bytes()
    for option in ("randomness.seed=1", "model.dropout=0.1", "train_cfg.max_epochs=2"):
        with pytest.raises(ValueError, match=r"holds the checkpoints of another run: --resume .*--work-dir FOLDER"):
            train(tmp_path, option)
    train(tmp_path, work="w2")
    with pytest.raises(ValueError, match="another run"):
        train(tmp_path, "randomness.seed=1", resume=str(tmp_path / "w2" / "last.pth"))
    assert (tmp_path / "w" / "last.pth").read_bytes() == before


def test_the_same_experiment_again_keeps_what_was_there(tmp_path):
    train(tmp_path)
    before = (tmp_path / "w" / "last.pth").read_bytes()
    for _ in range(2):
        train(tmp_path, "train_dataloader.num_workers=0")
    assert (tmp_path / "w" / "before_1" / "last.pth").read_bytes() == before
    assert (tmp_path / "w" / "before_2" / "report.json").exists()
    first, second = read(tmp_path / "w" / "before_1" / "last.pth"), read(tmp_path / "w" / "last.pth")
    assert all(torch.equal(first["state_dict"][k], v) for k, v in second["state_dict"].items())


def test_a_run_that_does_not_begin_leaves_the_earlier_files_in_place(tmp_path, monkeypatch):
    train(tmp_path)
    folder = tmp_path / "w"
    before = {name: (folder / name).read_bytes() for name in ("last.pth", "best.pth", "report.json", "config.py")}
    (tmp_path / "cut.pth").write_bytes(before["last.pth"][:1000])
    with pytest.raises(ValueError, match=r"cut\.pth is damaged"):
        train(tmp_path, resume=str(tmp_path / "cut.pth"))
    monkeypatch.setattr(launch.Runner, "train", lambda self: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path)
    monkeypatch.undo()
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert not list(folder.glob("before_*"))
    assert train(tmp_path, resume="auto").iter == 20


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    config = write_config(tmp_path)
    assert launch.run(lambda: launch.train(launch.prepare(config, str(tmp_path / "file" / "w")))) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {tmp_path / 'file'}")
    assert "\n" not in error


def test_a_kill_between_two_files_loses_neither(tmp_path, monkeypatch):
    """The best is on the disk before the checkpoint that knows of it; killed in between, it is validated again."""
    from xmodal.engine import checkpoint

    names, write = [], checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda path, content: (names.append(path.name), write(path, content)))
    train(tmp_path, "default_hooks.checkpoint.keep_epochs=1")
    assert names[:5] == ["epoch_1.pth", "last.pth", "epoch_2.pth", "last.pth", "best.pth"]
    assert names[5] == "last.pth"
