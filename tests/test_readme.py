"""The README's five lines, executed as they are printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from video.toys.actions import ActionSet, make_actions

ROOT = Path(__file__).parent.parent


def five_lines():
    text = (ROOT / "README.md").read_text()
    block = re.search(r"## Train on your own videos, in five lines\n\n```bash\n(.*?)```", text, re.S)
    return block[1].strip().splitlines()


def test_there_are_five_and_the_page_has_the_same():
    assert len(five_lines()) == 5
    page = (ROOT / "docs/videos.md").read_text()
    for line in five_lines():
        command = line.partition("#")[0].replace("--views 3x1", "").strip()
        assert command in page, command


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_five_lines_run_as_they_are_printed(tmp_path):
    made = make_actions(tmp_path / "made", ActionSet(train=24, val=1, test=2, frames=16))
    names = (made / "classes.txt").read_text().split("\n")
    for line in (made / "train.txt").read_text().splitlines():
        path, label = line.rsplit(maxsplit=1)
        if int(label) < 2:  # two classes are enough here
            target = tmp_path / "my/videos" / names[int(label)] / Path(path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((made / path).read_bytes())
    clips = sorted((tmp_path / "my/videos").rglob("*.mp4"))
    assert len(clips) >= 6
    (tmp_path / "some.mp4").write_bytes(clips[0].read_bytes())
    (tmp_path / "other.webm").write_bytes(clips[-1].read_bytes())
    shim = tmp_path / "bin" / "xmodal"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m xmodal "$@"\n')
    shim.chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{shim.parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    said = []
    for line in five_lines():
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}{done.stdout[-1000:]}"
        said.append(done.stdout)
    assert "Next:\n  xmodal train mine.py" in said[0]
    assert "memory of a step: " in said[1]
    assert "next: xmodal test " in said[2]
    assert re.search(r"top1 \d", said[3])
    assert said[4].count(" %  ") >= 4  # two classes of each of two files
