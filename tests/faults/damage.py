"""Damage files in many ways and read them under limits of memory and time: nothing but a named error may come of it.

    python -m tests.faults.damage [--tries N] [--seed S] [--kinds video image ...] [--table docs/reliability.md]

A file survives when its reader returns something or raises the error that the data sets take for a broken file. Any
other error, a crash, more memory or more time than allowed is a failure. The same seed damages the same files.
"""

import argparse
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import sound

ROOT = Path(__file__).parents[2]
MEMORY, SECONDS = 2 * 2**30, 20  # bytes above what the libraries take; for one file
MARKS = ("<!-- damaged files -->", "<!-- end of damaged files -->")
Damage = Callable[[bytes, np.random.Generator], bytes]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Lose the end."""
    return data[: int(rng.integers(1, len(data)))]


def headless(data: bytes, rng: np.random.Generator) -> bytes:
    """Lose the beginning."""
    return data[int(rng.integers(1, min(len(data), 400))) :]


def flipped(data: bytes, rng: np.random.Generator, count: int = 1, until: int | None = None) -> bytes:
    """Flip bits."""
    out = bytearray(data)
    for at in rng.integers(0, min(len(data), until or len(data)), count):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out)


def zeroed(data: bytes, rng: np.random.Generator) -> bytes:
    """Blank a block, as a disk that lost it does."""
    start, size = int(rng.integers(len(data))), int(rng.integers(1, 1 + len(data) // 2))
    return data[:start] + bytes(len(data[start : start + size])) + data[start + size :]


def inflated(data: bytes, rng: np.random.Generator) -> bytes:
    """Write the largest number into four bytes of the header: sizes and counts without bounds."""
    at = int(rng.integers(0, min(len(data), 600)))
    fill = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"9999"][int(rng.integers(4))]
    return data[:at] + fill + data[at + 4 :]


def shuffled(data: bytes, rng: np.random.Generator) -> bytes:
    """Exchange two blocks."""
    a, b, c = sorted(int(i) for i in rng.integers(0, len(data), 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def spliced(data: bytes, rng: np.random.Generator) -> bytes:
    """Put random bytes in."""
    at = int(rng.integers(len(data)))
    return data[:at] + rng.bytes(int(rng.integers(1, 200))) + data[at:]


DAMAGES: dict[str, Damage] = {
    "cut short": cut,
    "beginning lost": headless,
    "one bit flipped": flipped,
    "header bits flipped": lambda data, rng: flipped(data, rng, 4, 300),
    "1 % of bits flipped": lambda data, rng: flipped(data, rng, max(1, len(data) // 12)),
    "block blanked": zeroed,
    "huge sizes": inflated,
    "blocks exchanged": shuffled,
    "bytes put in": spliced,
    "empty": lambda data, rng: b"",
    "web page": lambda data, rng: b"<!doctype html><html><body>404 not found</body></html>\n",
    "noise": lambda data, rng: rng.bytes(len(data)),
}


def reader_of(kind: str) -> tuple[Callable[[str], Any], type[Exception]]:
    """The reader of a kind of file, and the error that it may raise."""
    if kind == "video":
        from video.decode import VideoError, VideoFile

        def read_film(path: str) -> Any:
            with VideoFile(path) as video:
                return video.read([0, video.num_frames // 2, video.num_frames - 1], short_side=32).shape

        return read_film, VideoError
    if kind == "image":
        from xmodal.data.images import ImageError, read_image

        return read_image, ImageError
    if kind == "cloud":
        from pointcloud.datasets.base import CloudError
        from pointcloud.datasets.files import read_cloud

        return read_cloud, CloudError
    if kind == "checkpoint":
        from xmodal.encoders.files import read_state
        from xmodal.engine.checkpoint import read

        def read_checkpoint(path: str) -> Any:
            if not path.endswith(".pth"):
                return read_state(path)  # has no checksums: other numbers cannot be told
            weights = read(path)["state_dict"]
            sound_ones = read(path.replace("damaged ", ""))["state_dict"]
            same = weights.keys() == sound_ones.keys() and all(weights[k].equal(v) for k, v in sound_ones.items())
            assert same, "other weights than were written"
            return weights

        return read_checkpoint, ValueError
    from video.annotations import VIDEOS
    from xmodal.data.class_names import read_classes

    def read_annotation(path: str) -> Any:
        if "labels" in path:
            return read_classes(path)
        return VIDEOS.read(path, classes=[f"doing {i}" for i in range(9)] if path.endswith("json") else None)

    return read_annotation, ValueError


def serve(kind: str) -> None:
    """Read the files that standard input names, and answer with what came of each."""
    read, refusal = reader_of(kind)
    read(input())  # a sound one, so that the libraries are loaded when the limit is set
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            read(line.rstrip("\n"))
            answer = "read"
        except refusal as error:
            answer = "refused" if str(error).strip() else "ESCAPED: an error without words"
        except BaseException as error:
            answer = f"ESCAPED: {type(error).__module__}.{type(error).__name__}: {str(error)[:200]}"
        print(json.dumps(answer), flush=True)


class Reader:
    """A process that reads files of one kind; a new one takes over when it dies or takes too long."""

    def __init__(self, kind: str, good: Path):
        self.kind, self.good = kind, good
        self.process: subprocess.Popen | None = None

    def start(self) -> subprocess.Popen:
        """Start a process and let it read a sound file."""
        command = [sys.executable, "-m", "tests.faults.damage", "--serve", self.kind]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{self.good}\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the reader of {self.kind} cannot read {self.good}")
        return process

    def read(self, path: Path) -> str:
        """What came of a file: `read`, `refused`, or a failure in capitals."""
        self.process = self.process or self.start()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], SECONDS)[0]:
            return self.end(f"SLOW: more than {SECONDS} s")
        line = self.process.stdout.readline()
        return json.loads(line) if line else self.end(f"DIED: exit status {self.process.wait()}")

    def end(self, answer: str = "") -> str:
        """Stop the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.process = None
        return answer


def campaign(kinds: list[str], tries: int, seed: int, keep: Path | None = None) -> dict[str, Counter]:
    """Damage and read `tries` files of each kind; prints every failure."""
    counts: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = sound.make(Path(folder))
        for kind in kinds:
            counts[kind] = Counter()
            reader = Reader(kind, made[kind][0])
            for number in range(tries):
                rng = np.random.default_rng([seed, number, sorted(made).index(kind)])
                source = made[kind][number % len(made[kind])]
                how = list(DAMAGES)[number // len(made[kind]) % len(DAMAGES)]
                path = source.with_name(f"damaged {source.name}")
                path.write_bytes(DAMAGES[how](source.read_bytes(), rng))
                answer = reader.read(path)
                counts[kind][answer.split(":")[0]] += 1
                if answer not in ("read", "refused"):
                    print(f"{kind} {number}, {source.name}, {how}: {answer}", flush=True)
                    if keep:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{kind}-{number}-{source.name}").write_bytes(path.read_bytes())
            reader.end()
    return counts


def table(counts: dict[str, Counter]) -> str:
    """Counts by kind, in Markdown."""
    head = ("files", "tries", "read", "refused", "other error", "died", "too slow")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for kind, n in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        values = (kind, sum(n.values()), n["read"], n["refused"], n["ESCAPED"], n["DIED"], n["SLOW"])
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=480, help="damaged files of each kind (480)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["video", "image", "cloud", "checkpoint", "annotation"])
    parser.add_argument("--keep", type=Path, help="keep the files that failed in this folder")
    parser.add_argument("--table", type=Path, help="write the table into this page, between its marks")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        serve(options.serve)
        return 0
    start = time.time()
    counts = campaign(options.kinds, options.tries, options.seed, options.keep)
    text = table(counts)
    print(f"{text}{time.time() - start:.0f} s")
    if options.table:
        before, _, rest = options.table.read_text().partition(MARKS[0])
        options.table.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    return int(any(set(n) - {"read", "refused"} for n in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
