"""Make the pictures of docs/using.md from the runs of `make demo`: python -m tests.screenshots."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.browser import Browser
from tests.use.test_serve import serving

ROOT = Path(__file__).parent.parent
RUNS = ("evl_tiny-clip_8u_actions8", "probe_tiny-clip_8u_actions8")


def long_film(data, path):
    """Join test clips of four classes, three of each."""
    import numpy as np

    from video.decode import VideoFile
    from video.toys.actions import write_clip

    rows = [line.rsplit(" ", 1) for line in (data / "test.txt").read_text().split("\n") if line]
    frames = []
    for label in ("0", "4", "2", "6"):
        for name in [name for name, y in rows if y == label][:3]:
            with VideoFile(data / name) as video:
                frames.append(video.read(range(video.num_frames)))
    write_clip(path, np.concatenate(frames))
    return path


def tool(name, *words):
    subprocess.run([sys.executable, f"tools/{name}.py", *map(str, words)], cwd=ROOT, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo_out"), help="folder of the demo (demo_out)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pictures (docs)")
    args = parser.parse_args()
    demo, out = (ROOT / args.demo), (ROOT / args.out)
    evl, probe = (demo / "runs" / run for run in RUNS)
    with tempfile.TemporaryDirectory() as folder, Browser(1000, 720) as browser:
        pages = Path(folder)
        tool("report", evl, "--out", pages / "report.html")
        browser.open(pages / "report.html")
        browser.wait("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
        browser.run("document.querySelectorAll('h2')[3].scrollIntoView()")
        browser.picture(out / "using-report.png")
        film = long_film(demo / "actions8", pages / "film.mp4")
        tool("predict", evl, film, "--window", "1s", "--stride", "500ms", "--out", pages)
        browser.open(pages / "film.html")
        browser.wait("document.querySelector('video').currentTime > 2")
        browser.picture(out / "using-timeline.png")
        clips = demo / "actions8" / "clips" / "test"
        words = [clips, "a red circle", "--encoder", "tiny-clip", "--index", pages / "index", "--top", "10"]
        tool("search", *words, "--page", pages / "hits.html", "--write", pages / "hits.csv")
        browser.open(pages / "hits.html")
        browser.wait("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
        browser.run("document.querySelectorAll('code').forEach(c => c.textContent = c.textContent.split('/').pop())")
        browser.picture(out / "using-search.png")
        with serving(f"evl={evl}", f"probe={probe}") as (_, port):
            browser.open(f"http://127.0.0.1:{port}/")
            browser.give_files("#files", sorted(clips.glob("*.mp4"))[:2])
            browser.wait("document.querySelectorAll('.answer .task').length === 4")
            browser.wait("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
            browser.picture(out / "using-serve.png")


if __name__ == "__main__":
    main()
