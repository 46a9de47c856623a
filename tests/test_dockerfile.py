"""The steps of the Dockerfile, one by one in an environment made here: no registry of images is needed. Slow."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import time
import urllib.request
import venv
from pathlib import Path

import pytest

from tests.use.conftest import clips, image_run, pictures, video_run  # noqa: F401 - fixtures

ROOT = Path(__file__).parent.parent


def steps():
    """The instructions of the Dockerfile, in order."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [line.split(" ", 1) for line in lines if line and not line.startswith("#")]


def test_what_is_left_out_is_not_installed():
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert {"tests", "work_dirs", ".git"} <= set(left_out)
    assert not {"xmodal", "video", "pointcloud", "tools", "configs", "constraints.txt"} & set(left_out)
    kinds = [kind for kind, _ in steps()]
    assert kinds[0] == "FROM"
    assert kinds.index("USER") > kinds.index("RUN")  # what is served does not run as root
    assert kinds[-1] == "ENTRYPOINT"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_end_in_a_server(tmp_path, image_run, video_run):  # noqa: F811
    pytest.importorskip("starlette")
    venv.create(tmp_path / "env", with_pip=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    here = [sysconfig.get_paths()["purelib"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in here if Path(path) != ROOT))
    binaries = tmp_path / "env" / "bin"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": f"{binaries}:{os.environ['PATH']}"}
    app, command, health = tmp_path / "app", [], ""
    for kind, words in steps():
        if kind == "COPY":
            files = subprocess.run(
                ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
            )
            left_out = tuple((ROOT / ".dockerignore").read_text().split())
            for name in files.stdout.split("\n"):
                if name and not name.startswith(left_out) and (ROOT / name).is_file():
                    (app / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, app / name)
        elif kind == "RUN" and words.startswith("pip install"):  # what it depends on comes from this environment
            local = re.sub(r"-c constraints\.txt '\.\[[a-z,]+\]'", "--no-deps --no-build-isolation .", words)
            assert local != words
            building = env | {"PYTHONPATH": here[0]}  # setuptools of this environment
            done = subprocess.run(local, shell=True, cwd=app, env=building, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
        elif kind == "ENV":
            env |= dict(word.split("=", 1) for word in shlex.split(words))
        elif kind == "HEALTHCHECK":
            health = words.removeprefix("CMD ")
        elif kind == "ENTRYPOINT":
            command = json.loads(words)
    port = "18471"
    command = [word.replace("8000", port).replace("0.0.0.0", "127.0.0.1") for word in command]
    runs = [f"shapes={image_run}", f"actions={video_run}"]
    process = subprocess.Popen([binaries / command[0], *command[1:], *runs], cwd=tmp_path, env=env)
    try:
        end = time.monotonic() + 120
        while subprocess.run(health.replace("8000", port), shell=True, env=env, capture_output=True).returncode:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/tasks") as reply:
            assert [task["name"] for task in json.load(reply)] == ["shapes", "actions"]
    finally:
        process.terminate()
        process.wait(30)
