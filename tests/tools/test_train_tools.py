"""train, test and predict from the command line; two processes without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.toy import CONFIG, write_config

ROOT = Path(__file__).parents[2]
BROKEN = CONFIG.replace("seed=99, test=True", "seed=99, test=True, broken=(4, 5, 6, 7)")
FILES = (
    CONFIG
    + "\ntest_dataloader = dict(batch_size=2, dataset=dict(type='tests.engine.toy.ToyFiles', annotation='none'))\n"
)


def call(*args, **env):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, env=environment, cwd=ROOT)


def tool(name):
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


TOOLS = sorted(p.stem for p in (ROOT / "tools").glob("*.py") if "def main" in p.read_text())


@pytest.mark.parametrize("name", TOOLS)
def test_help_needs_neither_torch_nor_mmengine(name):
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']; sys.path.insert(0, 'tools')\n"
        "class Wall:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'mmengine', 'xmodal', 'numpy'): raise SystemExit(name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        f"runpy.run_path('tools/{name}.py', run_name='__main__')"
    )
    done = call("-c", code)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, BROKEN)
    done = call(
        "tools/train.py", config, "--work-dir", folder / "w", "--seed", 3, "--cfg-options", "train_cfg.val_interval=1"
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_train_says_plain_lines_in_a_pipe_and_reports(trained):
    folder, done = trained
    lines = [line for line in done.stdout.splitlines() if "epoch 2/4 step 3/5" in line]
    assert len(lines) == 1
    for word in ("loss", "top1", "lr", "data", "samples/s", "eta"):
        assert word in lines[0]
    assert "\r" not in done.stdout + done.stderr
    assert "over 9 of 13 (4 skipped)" in done.stdout
    assert "trained, no decay" in done.stdout
    report = json.loads((folder / "w/report.json").read_text())
    assert (report["config"], report["seed"], report["status"], report["step"]) == ("toy", 3, "finished", 20)
    assert (report["trained_parameters"], report["total_parameters"]) == (33, 75)
    assert report["encoder"]["encoder"] == "toy"
    assert [e["epoch"] for e in report["epochs"]] == [1, 2, 3, 4]
    assert all({"loss", "top1", "seconds"} <= set(e["train"]) and "top1" in e["val"] for e in report["epochs"])
    assert len(report["history"]) == 20
    assert sorted(s["sample_id"] for s in report["skipped"]) == ["s4", "s5", "s6", "s7"]
    assert report["best"]["top1"] == max(e["val"]["top1"] for e in report["epochs"])
    assert "torch" in report["versions"]
    assert "--seed 3" in report["command"]


def test_test_and_dump(trained, tmp_path, capsys):
    folder, _ = trained
    dump = tmp_path / "p.npz"
    args = [str(folder / "toy.py"), str(folder / "w/best.pth"), "--dump", str(dump), "--work-dir", str(tmp_path)]
    assert tool("test")(args) == 0
    found = json.loads((tmp_path / "test.json").read_text())
    best = json.loads((folder / "w/report.json").read_text())["best"]["top1"]
    assert found["test"]["top1"] == pytest.approx(best)
    assert (found["test"]["evaluated"], found["test"]["of"]) == (9, 13)
    stored = np.load(dump)
    assert stored["scores"].shape == (9, 3)
    assert 100 * (stored["scores"].argmax(1) == stored["label"]).mean() == pytest.approx(best)


def test_views_reach_the_data_set(trained, tmp_path, capsys):
    folder, _ = trained
    args = [str(folder / "toy.py"), str(folder / "w/best.pth"), "--work-dir", str(tmp_path), "--views"]
    assert tool("test")([*args, "3x1"]) == 2
    assert "ToyData has no argument 'temporal_views'" in capsys.readouterr().err
    assert tool("test")([*args, "3"]) == 2
    assert "--views takes TEMPORALxSPATIAL" in capsys.readouterr().err


def test_predict(trained, tmp_path, capsys):
    folder, _ = trained
    config = write_config(tmp_path, FILES)
    for name, text in {"a b.txt": "1.5", "bad.txt": "nothing", "c.txt": "-1"}.items():
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / n) for n in ("a b.txt", "bad.txt", "c.txt")]
    assert tool("predict")([config, str(folder / "w/best.pth"), *files, "--json", "--top", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == files
    assert "could not convert" in rows[1]["error"]
    assert rows[0]["name"] == f"class {rows[0]['label']}"
    assert len(rows[0]["top"]) == 2
    assert sum(rows[2]["scores"]) == pytest.approx(1, abs=1e-4)
    assert tool("predict")([config, str(folder / "w/best.pth"), files[1]]) == 1
    assert "cannot be read" in capsys.readouterr().out
    assert tool("predict")([config, str(folder / "w/best.pth"), "none.txt"]) == 1
    assert "no file at none.txt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["CONFIG", "--amp", "fp16"], "fp16 needs a GPU"),
        (["none.py"], "no config at none.py"),
        (["CONFIG", "--cfg-options", "optim_wrapper.optimzer.lr=1"], "did you mean 'optimizer'"),
        (["CONFIG", "--resume", "none.pth"], "no checkpoint at none.pth"),
        (
            ["CONFIG", "--cfg-options", "optim_wrapper.optimizer.lr=1e30", "param_scheduler.warmup_epochs=0"],
            "the loss is",
        ),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_mistakes_end_with_one_line(tmp_path, capsys, args, message):
    config = write_config(tmp_path)
    args = [config if a == "CONFIG" else a for a in args]
    assert tool("train")([*args, "--work-dir", str(tmp_path / "w")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_errors_in_workers_end_with_one_line(tmp_path, capsys):
    text = CONFIG.replace(
        "num_workers=0, dataset=dict(type=ToyData, size=_size",
        "num_workers=1, dataset=dict(type=ToyData, size=_size, log='/none/x'",
    )
    assert tool("train")([write_config(tmp_path, text), "--work-dir", str(tmp_path / "w")]) == 2
    err = capsys.readouterr().err
    assert "No such file" in err
    assert "Traceback" not in err


def test_bf16_trains_here(tmp_path):
    args = [write_config(tmp_path), "--work-dir", str(tmp_path / "w"), "--amp", "bf16"]
    assert tool("train")(args) == 0


def test_workers_read_the_same_samples(tmp_path):
    from tests.engine.test_resume import losses, run

    run(tmp_path, CONFIG, "none")
    run(tmp_path, CONFIG, "two", options=["train_dataloader.num_workers=2", "train_dataloader.persistent_workers=true"])
    assert losses(tmp_path, "none") == losses(tmp_path, "two")


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joint_batch(tmp_path):
    """Same weights and losses, every validation sample counted once, resume included."""
    from xmodal.engine.checkpoint import read

    text = CONFIG.replace("dropout=0.3", "dropout=0.0, norm=False").replace("batch_size=5", "batch_size=6")
    config = write_config(tmp_path, text)
    one = call("tools/train.py", config, "--work-dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "tools/train.py"]
    two = [
        *torchrun,
        config,
        "--launcher",
        "pytorch",
        "--work-dir",
        tmp_path / "two",
        "--cfg-options",
        "train_dataloader.batch_size=3",
    ]
    done = call(*two, "train_cfg.max_epochs=4")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / w / "report.json").read_text()) for w in ("one", "two"))
    assert second["processes"] == 2
    assert [h["loss"] for h in first["history"]] == pytest.approx([h["loss"] for h in second["history"]], abs=1e-5)
    assert [h["lr"] for h in first["history"]] == [h["lr"] for h in second["history"]]
    assert first["epochs"][-1]["val"]["confusion"] == second["epochs"][-1]["val"]["confusion"]
    assert second["epochs"][-1]["val"]["evaluated"] == 13
    a, b = (read(tmp_path / w / "last.pth")["state_dict"] for w in ("one", "two"))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-6, rtol=1e-5)
    again = call(*two, "--resume")
    assert again.returncode == 0, again.stderr


def test_folders_of_frames_are_predicted_as_videos(tmp_path):
    from tests.xmodal.test_own_formats import frames, picture
    from video.frames import is_frame_folder
    from xmodal.engine.inputs import expand

    def found(*named, **options):
        return [entry.path for entry in expand([str(n) for n in named], (".mp4", ".png"), **options)]

    one, other = frames(tmp_path / "set" / "a" / "clip 1"), frames(tmp_path / "set" / "b" / "clip 2")
    videos = {"whole": is_frame_folder}
    assert found(one, **videos) == [str(one)]
    assert found(tmp_path / "set", one, **videos) == [str(one), str(other)]
    assert found(f"{tmp_path}/set/*/*", **videos) == [str(one), str(other)]
    (tmp_path / "list.txt").write_text(f"{one}\nset/b\n")
    assert found(tmp_path / "list.txt", **videos) == [str(one), str(other)]
    assert found(one) == sorted(str(p) for p in one.iterdir())  # of an image model
    assert found(picture(tmp_path / "x.png"), **videos) == [str(tmp_path / "x.png")]
