"""Compute what a large video set costs: bytes, decoding, extraction, the cache, and training with and without it.

Examples:
  python tools/plan.py kinetics400
  python tools/plan.py kinetics400 --tower l14 --frames 16 --views 4
  python tools/plan.py videos10m --megabits 2 --gpu-tflops 990

Every figure is computed from the assumptions that are printed with it; nothing here was measured on such a set. Put in
what you measure: `tools/bench.py decode` (--decode-ms), the bytes of your files (--megabits), `tools/extract.py CONFIG
--estimate` (--cache-mb), and the share of a GPU's peak that your steps reach (--share).
"""

import argparse
import sys
from dataclasses import dataclass

SETS = {"kinetics400": (240_000, 10.0, 30), "videos10m": (10_000_000, 10.0, 10)}  # videos, seconds each, epochs
TOWERS = {
    "b16": (768, 12, 16),
    "l14": (1024, 24, 14),
    "h14": (1280, 32, 14),
    "g14": (1664, 48, 14),
}  # width, depth, patch
MLP = {"g14": 8192}  # where it is not four times the width
# What a step computes, in forward passes of the frozen tower, by method: docs/performance.md has measured ratios
STEPS = {"full fine-tuning": 3.0, "ST-Adapter": 2.05, "EVL": 1.08, "EVL from the cache": 0.08}


@dataclass
class Workload:
    """A set, a tower and what machines are assumed to do.

    Args:
        videos: how many.
        seconds: of each.
        epochs: of training.
        tower: a name of `TOWERS`.
        frames: of a clip.
        views: of each video that are kept in the cache.
        size: side of a frame in pixels.
        megabits: of a second of video.
        decode_ms: CPU time to decode a clip.
        gpu_tflops: peak of a GPU.
        share: of the peak that is reached.
        cache_mb: of a clip in float16.
    """

    videos: int
    seconds: float
    epochs: int
    tower: str = "b16"
    frames: int = 8
    views: int = 1
    size: int = 224
    megabits: float = 1.0
    decode_ms: float = 40.0
    gpu_tflops: float = 312.0
    share: float = 0.4
    cache_mb: float = 13.3

    def clip_flops(self) -> float:
        """Return the floating-point operations of a forward pass of one clip."""
        return self.frames * forward_flops(*TOWERS[self.tower], self.size, MLP.get(self.tower))

    def gpu_hours(self, forwards: float) -> float:
        """Return the GPU-hours of so many forward passes of every video's clip."""
        return self.videos * forwards * self.clip_flops() / (self.gpu_tflops * 1e12 * self.share) / 3600

    def data_rows(self) -> list[tuple[str, str]]:
        """Return what the data and the cache take."""
        clips, cache = self.videos * self.views, self.videos * self.views * self.cache_mb * 1e6
        return [
            ("bytes of the videos", terabytes(self.videos * self.seconds * self.megabits * 1e6 / 8)),
            ("tars of 1 GB", f"{self.videos * self.seconds * self.megabits * 1e6 / 8 / 2**30:,.0f}"),
            ("decoding, an epoch", f"{short(self.videos * self.decode_ms / 3.6e6)} core-hours"),
            ("cores that keep one GPU busy, EVL", f"{self.cores('EVL'):,.1f}"),
            (f"extraction of {self.views} view(s)", f"{short(self.gpu_hours(self.views))} GPU-hours"),
            (f"cache of {clips:,} clips: float32 / float16 / int8",
             " / ".join(terabytes(cache * k) for k in (2, 1, 0.5))),
            ("reading the float16 cache in an hour", f"{cache / self.views / 3600 / 1e9:,.1f} GB/s"),
        ]  # fmt: skip

    def cores(self, method: str) -> float:
        """Return the cores that decode as fast as one GPU takes a method's steps."""
        clip = STEPS[method] * self.clip_flops() / (self.gpu_tflops * 1e12 * self.share)
        return self.decode_ms / 1000 / clip

    def training_rows(self) -> list[tuple[str, str]]:
        """Return what training takes, in GPU-hours and as a share of full fine-tuning."""
        whole, rows = self.gpu_hours(STEPS["full fine-tuning"] * self.epochs), []
        for method, step in STEPS.items():
            once = self.views if method.endswith("cache") else 0
            hours = self.gpu_hours(once + step * self.epochs)
            rows.append((f"{method}, {self.epochs} epochs", f"{short(hours)} GPU-hours ({hours / whole:.0%})"))
        again = self.views / (STEPS["EVL"] - STEPS["EVL from the cache"])
        return [*rows, ("epochs after which the cache is cheaper than EVL without it", f"{again:.0f}")]


def forward_flops(width: int, depth: int, patch: int, size: int, hidden: int | None = None) -> float:
    """Return the floating-point operations (two a multiplication and addition) of a ViT's forward pass of one image."""
    patches = (size // patch) ** 2
    tokens, hidden = patches + 1, hidden or 4 * width
    block = 2 * tokens * (4 * width * width + 2 * width * hidden) + 4 * tokens * tokens * width
    return depth * block + 2 * patches * 3 * patch * patch * width


def short(number: float) -> str:
    """Return a number with two digits, or as a whole one."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def terabytes(count: float) -> str:
    """Return bytes as a text in GB, TB or PB."""
    return next(f"{count / unit:,.3g} {name}" for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")) if
                count >= unit or name == "GB")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("set", choices=SETS, help="whose numbers are the defaults")
    for name, field in Workload.__dataclass_fields__.items():
        kind = {"int": int, "float": float, "str": str, int: int, float: float, str: str}[field.type]
        choices = TOWERS if name == "tower" else None
        shown = "of the set" if name in ("videos", "seconds", "epochs") else field.default
        p.add_argument(f"--{name.replace('_', '-')}", type=kind, choices=choices, help=f"default: {shown}")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the plan as two tables."""
    args = vars(parser().parse_args(argv))
    name = args.pop("set")
    given = dict(zip(("videos", "seconds", "epochs"), SETS[name], strict=True))
    plan = Workload(**{**given, **{key: value for key, value in args.items() if value is not None}})
    assumed = ", ".join(f"{key.replace('_', ' ')} {value:,}" if isinstance(value, int | float) else f"{key} {value}"
                        for key, value in vars(plan).items())  # fmt: skip
    print(f"Computed for {name}, not measured. Assumed: {assumed}; a clip is {plan.clip_flops() / 1e9:,.0f} GFLOP.\n")
    for title, rows in (("data", plan.data_rows()), ("training, without decoding", plan.training_rows())):
        print("\n".join([f"| {title} | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
