"""The truth matrix: in every kind of video file, the frame asked must be the frame that the `ffmpeg` command shows.

    python -m tests.video.matrix [--only KIND...] [--keep FILE] [--decoder NAME] [--table docs/video-files.md]

Each film carries its frame numbers in black and white cells. A cell is a container x codec x distance of key frames x
B-frames x start x rate; all of its frames, the frames of uniform and of dense sampling, and single frames are read with
a fresh `VideoFile` each, and must be the frames of the same places in what `ffmpeg -i FILE -vsync passthrough` shows.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from tests.video.videos import numbers_of, picture
from video.decode import VideoError, VideoFile
from video.libraries import DECODERS
from video.sampling import dense_test, uniform_test

FRAMES, HEIGHT, WIDTH = 260, 96, 128
MARKS = ("<!-- truth matrix -->", "<!-- end of the truth matrix -->")
H264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
ENCODERS = {
    "h264": [*H264, "-x264-params", "scenecut=0:threads=1"],
    "h264-open-gop": [*H264, "-x264-params", "scenecut=0:threads=1:open-gop=1"],
    "h264-intra-refresh": [*H264, "-x264-params", "scenecut=0:threads=1:intra-refresh=1"],
    "h264-interlaced": [*H264, "-x264-params", "scenecut=0:threads=1:interlaced=1"],
    "hevc": ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x265-params",
             "log-level=none:scenecut=0:pools=1:frame-threads=1"],
    "vp8": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M", "-auto-alt-ref", "0"],
    "vp9": ["-c:v", "libvpx-vp9", "-cpu-used", "8", "-b:v", "1M", "-lag-in-frames", "16"],
    "av1": ["-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p"],
    "mpeg4": ["-c:v", "mpeg4", "-q:v", "4"],
    "mpeg2": ["-c:v", "mpeg2video", "-q:v", "4"],
    "mpeg1": ["-c:v", "mpeg1video", "-q:v", "4"],
    "wmv2": ["-c:v", "wmv2", "-q:v", "4"],
    "msmpeg4": ["-c:v", "msmpeg4", "-q:v", "4"],
    "flv1": ["-c:v", "flv1", "-q:v", "4"],
    "theora": ["-c:v", "libtheora", "-q:v", "7"],
    "h263": ["-c:v", "h263", "-q:v", "4"],
    "mjpeg": ["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"],
    "prores": ["-c:v", "prores"],
    "gif": ["-c:v", "gif"],
}  # fmt: skip
CONTAINERS = {
    "mp4": ["h264", "h264-open-gop", "h264-intra-refresh", "h264-interlaced", "hevc", "vp9", "av1", "mpeg4", "mpeg2"],
    "mov": ["h264", "hevc", "mpeg4", "mjpeg", "prores"],
    "mkv": ["h264", "h264-open-gop", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2", "theora"],
    "webm": ["vp8", "vp9", "av1"],
    "avi": ["h264", "mpeg4", "msmpeg4", "mjpeg"],
    "ts": ["h264", "hevc", "mpeg2", "mpeg4"],
    "m2ts": ["h264", "mpeg2"],
    "mpg": ["mpeg1", "mpeg2", "h264"],
    "wmv": ["wmv2", "msmpeg4", "h264"],
    "flv": ["h264", "flv1"],
    "3gp": ["h264", "h263", "mpeg4"],
    "ogv": ["theora", "vp8"],
    "gif": ["gif"],
    "mxf": ["mpeg2", "h264"],
    "vob": ["mpeg2", "mpeg1"],
}
MUXERS = {"ts": "mpegts", "m2ts": "mpegts", "mpg": "mpeg", "wmv": "asf", "mkv": "matroska", "ogv": "ogg"}
HEADERS = (("ts", "mpeg4"), ("mpg", "h264"), ("mxf", "h264"))  # where the stream carries its header itself
NO_B_FRAMES = ("vp8", "vp9", "av1", "wmv2", "msmpeg4", "flv1", "theora", "h263", "mjpeg", "prores", "gif")
NO_GROUPS = ("mjpeg", "prores", "gif")
GOPS, B_FRAMES, RATES = (1, 12, 250), (0, 3), ("constant", "variable")
STARTS = ("key frame", "mid-GOP", "trimmed by copy", "negative times", "missing times")

FILTERS = {
    "mid-GOP": ("-bsf:v", "noise=drop=lt(n\\,5)"),
    "negative times": ("-bsf:v", "setts=ts=TS-20*DURATION", "-avoid_negative_ts", "disabled"),
    "missing times": ("-bsf:v", "setts=pts=if(gt(mod(N\\,3)\\,1)\\,NOPTS\\,PTS)"),
}


@dataclass(frozen=True, order=True)
class Cell:
    """One kind of film."""

    container: str
    codec: str
    gop: int
    b_frames: int
    start: str
    rate: str


def cells() -> list[Cell]:
    """All kinds of films, without those that only differ in a setting that the codec does not have."""
    found = []
    for container, codecs in CONTAINERS.items():
        for codec, gop, b, start, rate in itertools.product(codecs, GOPS, B_FRAMES, STARTS, RATES):
            plain = (b == 0 or (codec not in NO_B_FRAMES and gop > 1)) and (gop == 1 or codec not in NO_GROUPS)
            if plain:
                found.append(Cell(container, codec, gop, b, start, rate))
    return found


def ffmpeg(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    """Run the command quietly."""
    command = ["ffmpeg", "-y", "-nostdin", "-v", "error", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **options)  # type: ignore[call-overload]


class Films:
    """Makes the film of a cell: encodes once for each codec, and copies the packets into the containers."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.raw = folder / "numbers.rgb"
        grain = np.random.default_rng(0).integers(0, 24, (FRAMES, HEIGHT, WIDTH, 1), np.uint8)  # packets of some size
        self.raw.write_bytes(b"".join((picture(n, HEIGHT, WIDTH) + grain[n]).tobytes() for n in range(FRAMES)))

    def encoded(self, cell: Cell) -> Path:
        """The packets of a codec, in NUT, which carries all of them."""
        path = self.folder / f"{cell.codec}_{cell.gop}_{cell.b_frames}_{cell.rate}.nut"
        if not path.exists():
            b = ["-bf", cell.b_frames] if cell.codec not in NO_B_FRAMES else []
            if cell.codec == "hevc":
                b = []
            speed = ["-vf", "setpts=N+floor(N*N/97)"] if cell.rate == "variable" else []
            encoder = list(ENCODERS[cell.codec])
            if cell.codec == "hevc":
                encoder[-1] += f":keyint={cell.gop}:min-keyint={cell.gop}:bframes={cell.b_frames}"
            raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", 25, "-i", self.raw)
            command = (*raw, *speed, "-vsync", "passthrough", "-threads", 1, *encoder, "-g", cell.gop, *b)
            done = ffmpeg(*command, path)
            if done.returncode or not path.exists():
                raise RuntimeError(f"{cell}: {done.stderr.decode()[-300:]}")
        return path

    def film(self, cell: Cell) -> Path | None:
        """The film of a cell, or None where the container cannot carry it."""
        path = self.folder / f"film.{cell.container}"
        before = ["-ss", "1.3"] if cell.start == "trimmed by copy" else []
        filters = list(FILTERS.get(cell.start, ()))
        if (cell.container, cell.codec) in HEADERS:
            filters = ["-bsf:v", ",".join(["dump_extra", *filters[1:2]]), *filters[2:]]
        muxer = ["-f", MUXERS[cell.container]] if cell.container in MUXERS else []
        done = ffmpeg(*before, "-i", self.encoded(cell), "-c", "copy", *filters, *muxer, path)
        if done.returncode or not path.exists() or path.stat().st_size < 200:
            path.unlink(missing_ok=True)
            return None
        return path


def shown(path: Path) -> list[int]:
    """The numbers that the `ffmpeg` command shows, in order."""
    done = ffmpeg("-i", path, "-map", "v:0", "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    frames = np.frombuffer(done.stdout[: len(done.stdout) // (HEIGHT * WIDTH * 3) * (HEIGHT * WIDTH * 3)], np.uint8)
    return numbers_of(frames.reshape(-1, HEIGHT, WIDTH, 3))


def verdict(path: Path, decoder: str = "own") -> tuple[str, str]:
    """(`exact`, `refused` or `WRONG`, reader or reason)."""
    truth = shown(path)
    if not truth:
        return "not carried", "ffmpeg shows nothing"
    try:
        with VideoFile(path, decoder=decoder) as video:
            count, reader = video.num_frames, video.backend
        if count != len(truth):
            return "WRONG", f"{count} frames by {reader}, ffmpeg shows {len(truth)}"
        some = [int(i) for i in np.random.default_rng(0).integers(0, count, 3)]
        asked = [list(range(count)), uniform_test(8, count)[0], dense_test(8, 4, count, 3).reshape(-1)]
        for indices in [*asked, *([i] for i in (0, count - 1, *some))]:
            with VideoFile(path, decoder=decoder) as video:
                got, reader = numbers_of(video.read(indices)), video.backend
            want = [truth[i] for i in indices]
            if got != want:
                wrong = [(int(i), g, w) for i, g, w in zip(indices, got, want, strict=True) if g != w]
                return "WRONG", f"{reader}: {len(wrong)} of {len(want)} (index, got, want) {wrong[:4]}"
    except VideoError as error:
        return "refused", f"{error.reason} [{error.backend}]"
    return "exact", reader


def run(chosen: list[Cell], keep: Path | None = None, decoder: str = "own") -> dict[Cell, tuple[str, str]]:
    """The verdicts of cells; those that `keep` (a file of JSON lines) has are not judged again."""
    known = [json.loads(line) for line in keep.read_text().splitlines()] if keep and keep.exists() else []
    before = {Cell(*line[:6]): (line[6], line[7]) for line in known}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        films = Films(Path(folder))
        for cell in chosen:
            found[cell] = before.get(cell) or judge(films, cell, decoder)
            if keep and cell not in before:
                with keep.open("a") as file:
                    file.write(json.dumps([*astuple(cell), *found[cell]]) + "\n")
    return found


def judge(films: Films, cell: Cell, decoder: str) -> tuple[str, str]:
    """The verdict of one cell."""
    path = films.film(cell)
    if path is None:
        return "not carried", ""
    try:
        return verdict(path, decoder)
    finally:
        path.unlink()


def table(found: dict[Cell, tuple[str, str]]) -> str:
    """Counts by container and codec, in Markdown."""
    rows: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for cell, (state, how) in found.items():
        counts = rows[cell.container, cell.codec]
        counts[state] += 1
        counts[how] += state == "exact"
    lines = [
        "| container | codec | cells | exact | of these at random | in sequence | refused | wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (container, codec), n in [*rows.items(), (("all", ""), sum(rows.values(), Counter()))]:
        carried = n["exact"] + n["refused"] + n["WRONG"]
        values = (carried, n["exact"], n["exact"] - n["pyav"], n["pyav"], n["refused"], n["WRONG"])
        lines.append(f"| {container} | {codec} | " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines) + "\n"


def write_table(page: Path, text: str) -> None:
    """Put a table into a page, between its two marks."""
    before, _, rest = page.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}")


def main(argv: list[str] | None = None) -> int:
    """Judge the cells and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="containers or codecs")
    parser.add_argument("--keep", type=Path, help="write verdicts into this file, and go on from those in it")
    parser.add_argument("--table", type=Path, help="write the table into this page, between its marks")
    parser.add_argument("--decoder", choices=DECODERS, default="own", help="reader of films read at random")
    options = parser.parse_args(argv)
    if shutil.which("ffmpeg") is None:
        raise SystemExit("matrix: the ffmpeg command is needed")
    chosen = [c for c in cells() if not options.only or {c.container, c.codec} & set(options.only)]
    found = run(chosen, options.keep, options.decoder)
    for cell, (state, how) in found.items():
        if state in ("WRONG", "refused"):
            print(state, *astuple(cell), how, sep=", ")
    text = table(found)
    print(text)
    if options.table:
        write_table(options.table, text)
    states = Counter(state for state, _ in found.values())
    print(dict(states))
    return 1 if states["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
