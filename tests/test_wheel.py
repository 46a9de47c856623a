"""What is installed, and what is not."""

import subprocess
import sys
import zipfile
from pathlib import Path

from xmodal.command import offered

ROOT = Path(__file__).parent.parent


def test_wheel_holds_exactly_the_three_packages(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    source = tmp_path / "source"
    source.mkdir()
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).exists() and not name.startswith("tests/parity/cases"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("xmodal-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"xmodal", "video", "pointcloud"}
    assert {f"xmodal/assets/{n}" for n in ("tiny_clip.safetensors", "benchmarks.json", "page.css", "page.js")} <= set(
        names
    )
    tools = {n for n in names if n.startswith("xmodal/tools/")}
    assert tools == {f"xmodal/tools/{n.replace('-', '_')}.py" for n in offered() if n != "configs"}
    configs = {n.removeprefix("xmodal/") for n in names if n.startswith("xmodal/configs/")}
    assert configs == {
        str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*") if p.is_file() and p.suffix != ".pyc"
    }
    assert (
        "xmodal = xmodal.command:run"
        in zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    )
    outside = tmp_path / "outside"
    zipfile.ZipFile(wheel).extractall(outside)
    run = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "xmodal", *words], cwd=outside, capture_output=True, text=True, check=False
    )
    assert "st-adapter_vit-b16-clip_8x16_k400" in run("configs", "st-adapter", "kinetics").stdout
    done = run("train", "video/evl_tiny-clip_8u_actions8", "--print-config")
    assert "type='video.evl.EVLDecoder'" in done.stdout, done.stderr


def test_importing_the_packages_costs_nothing():
    code = "import sys, xmodal, video, pointcloud; print('torch' in sys.modules, 'mmengine' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]
