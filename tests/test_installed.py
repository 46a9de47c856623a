"""From an installed wheel, outside the checkout: own films to predictions, and fine-tuning to other classes. Slow."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.video.test_real_footage import cut, videos  # noqa: F401 - a fixture

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the wheel; what the package depends on comes from this one."""
    folder = tmp_path_factory.mktemp("installed")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run([*pip, str(folder / "source")], check=True, capture_output=True)
    venv.create(folder / "env", with_pip=True)
    (wheel,) = folder.glob("xmodal-*.whl")
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True, capture_output=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env" / "bin"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_own_films_from_the_installed_command(installed, videos, tmp_path):  # noqa: F811
    films = tmp_path / "my films"
    for name in ("bikes", "bigbuckbunny", "carphone_pristine"):
        (films / name).mkdir(parents=True)
        cut(videos[name], films / name, 0)
    (films / "bikes" / "torn.mp4").write_bytes(b"not a video")
    two = tmp_path / "two"
    two.mkdir()
    for name in ("bikes", "bigbuckbunny"):
        (two / name).symlink_to(films / name)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"PATH": f"{installed}:{env['PATH']}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(command):
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}{done.stdout[-1000:]}"
        return done.stdout

    where = run("python -c 'import xmodal, video; print(xmodal.__file__, video.__file__)'")
    assert where.count(str(installed.parent)) == 2
    said = run("xmodal new two --encoder tiny-clip")
    assert "24 videos" in said.replace("25 videos", "24 videos")
    assert "torn.mp4: " in said
    commands = re.findall(r"^  (xmodal .*)$", said, re.M)
    assert [command.split()[1] for command in commands] == ["train", "test", "predict"]
    trained, tested, predicted = (run(command) for command in commands)
    assert "next: xmodal test " in trained
    assert float(re.search(r"top1 ([\d.]+)", tested)[1]) >= 75
    assert "bikes" in predicted
    said = run("xmodal new 'my films' --encoder tiny-clip --out three.py")
    assert "classes (train / val / test)" in said
    out = run("xmodal train three.py --load-from work_dirs/two/best.pth --cfg-options train_cfg.max_epochs=3 "
              "param_scheduler.warmup_epochs=0.3")  # fmt: skip
    assert "new head: head.fc.bias, head.fc.weight start from fresh weights" in out
    assert "for 2 classes" in out
    rows = run("xmodal predict work_dirs/three/best.pth 'my films/carphone_pristine' --json")
    assert rows.count('"file"') == 12
