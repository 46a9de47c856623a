"""Few-shot digits with a frozen ConvNet and a frozen ViT: python tools/demo_image.py.

Real scans (scikit-learn's digits), K shots a class, several seeds; one row a method, beside the linear probe and full
fine-tuning. Every run is tools/train.py and tools/test.py on one config, with the options that are printed. The rates
below were chosen with --tune, on validation images that are neither trained on nor tested; the last epoch counts. Peak
memory is that of one training step beyond weights and inputs.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

CONFIG = "configs/image/probe_tiny-clip_48_digits.py"
LITE, TINY = "efficientnet_lite0", "tiny_clip_encoder"
TOWERS = {LITE: ["model.encoder={'type': 'efficientnet_lite0', 'image_size': 48}"], TINY: []}
FULL = ["model.freeze_encoder=false"]
EVERY_LAYER = ["q", "k", "v", "proj", "fc1", "fc2"]


class Row(NamedTuple):
    """A method on a tower: its learning rate and the options of the config that make it."""

    tower: str
    name: str
    rate: float
    options: Sequence[str] = ()


def adapter(name: str, **options: Any) -> list[str]:
    """Return the option that places an adapter."""
    return [f"model.adapters={[dict(type=name, **options)]}"]


ROWS = [
    Row(LITE, "linear probe", 1e-2),
    Row(LITE, "conv_adapter", 3e-3, adapter("conv_adapter", reduction=8)),
    Row(LITE, "full fine-tuning", 3e-3, FULL),
    Row(TINY, "linear probe", 1e-1),
    Row(TINY, "vqt", 9e-2, ["model.reader={'type': 'vqt', 'num_queries': 2}"]),
    Row(TINY, "lora", 1e-2, adapter("lora", rank=8, targets=EVERY_LAYER)),
    Row(TINY, "vpt", 3e-2, adapter("vpt", num_tokens=8)),
    Row(TINY, "convpass", 1e-2, adapter("convpass", hidden=16)),
    Row(TINY, "ssf", 3e-2, adapter("ssf")),
    Row(TINY, "full fine-tuning", 1e-3, FULL),
]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shots", type=int, default=16, help="training images a class (default 16)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="draws of the training images")
    p.add_argument("--epochs", type=int, default=12, help="passes over the training images (default 12)")
    p.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows, such as lora conv_adapter")
    p.add_argument("--towers", nargs="+", choices=TOWERS, default=list(TOWERS), metavar="NAME", help=", ".join(TOWERS))
    p.add_argument("--tune", action="store_true", help="try rates with the first seed, on the validation images")
    p.add_argument(
        "--out", type=Path, default=Path("demo_out/image"), help="folder of table.md, table.json, report.html"
    )
    return p.parse_args(argv)


def options_of(row: Row, args: argparse.Namespace, seed: int) -> list[str]:
    """Return the options of the config for a row and a draw."""
    length = [f"train_cfg.max_epochs={args.epochs}", f"train_cfg.val_interval={args.epochs}"]
    draw = [f"train_dataloader.dataset.shots={args.shots}", f"train_dataloader.dataset.draw={seed}"]
    schedule = [f"param_scheduler.warmup_epochs={args.epochs / 5:g}", f"optim_wrapper.optimizer.lr={row.rate:g}"]
    return [*TOWERS[row.tower], *row.options, *length, *draw, *schedule]


def run_once(row: Row, args: argparse.Namespace, seed: int, test: bool = True) -> tuple[Path, dict, dict]:
    """Train with one seed and test: folder, report and metrics of the test."""
    from tools.demo_steps import train_and_test

    work = args.out / "runs" / f"{row.tower}_{row.name.replace(' ', '-')}_{row.rate:g}_{seed}"
    return work, *train_and_test(CONFIG, work, seed, options_of(row, args, seed), test)


def tune(rows: list[Row], args: argparse.Namespace) -> None:
    """Find each row's rate on the validation images: its own, a third, three times; further where an end is best."""
    for row in rows:
        found: dict[float, float] = {}
        best = row.rate
        while not found or (best in (min(found), max(found)) and len(found) < 6):
            for rate in (best / 3, best, best * 3):
                rate = float(f"{rate:.0e}")
                if rate not in found:
                    report = run_once(row._replace(rate=rate), args, args.seeds[0], test=False)[1]
                    found[rate] = report["epochs"][-1]["val"]["top1"]
            best = max(sorted(found), key=lambda r: found[r])
        listed = ", ".join(f"{rate:g}: {found[rate]:.1f}" for rate in sorted(found))
        print(f"{row.tower} {row.name}: {listed}; best {best:g}", flush=True)


def run_row(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """Run one method over all seeds and measure a step."""
    from tools.demo_steps import step_costs
    from xmodal.engine.config import load_config

    runs = [run_once(row, args, seed) for seed in args.seeds]
    scores = [test["top1"] for _, _, test in runs]
    costs = step_costs(load_config(CONFIG, options_of(row, args, args.seeds[0])))
    print(f"{row.tower}, {row.name}: {statistics.mean(scores):.1f} %", flush=True)
    return {
        "tower": row.tower, "method": row.name, "rate": row.rate, "top1": statistics.mean(scores), "scores": scores,
        "trained": runs[0][1]["trained_parameters"], "step_s": costs["median_s"], "peak_mb": costs["peak_mb"],
        "work": runs[0][0],
    }  # fmt: skip


HEADER = ("tower", "method", "top-1 (lowest to highest)", "trained weights", "peak memory", "seconds a step")


def cells(r: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table."""
    spread = f"{r['top1']:.1f} ({min(r['scores']):.1f} to {max(r['scores']):.1f})"
    return r["tower"], r["method"], spread, f"{r['trained']:,}", f"{r['peak_mb']:.1f} MB", f"{r['step_s']:.3f}"


def show(rows: list[Row], args: argparse.Namespace) -> None:
    """Run the rows, print and write the table and the page."""
    from tools.demo_steps import keep_table, write_page

    title = (
        f"scikit-learn's digits, {args.shots} training images a class, 500 test images, "
        f"mean of {len(args.seeds)} draws ({args.epochs} epochs, last epoch)"
    )
    results = [run_row(row, args) for row in rows]
    keep_table(args.out, [HEADER, *map(cells, results)], results, title)
    folders = {f"{r['tower']}, {r['method']}": r["work"] for r in results}
    page = write_page(folders, args.out / "report.html", "Digits, few shots", f"{title}. Below: the first draw.")
    print(f"\npage: {page}")


def main(argv: list[str] | None = None) -> int:
    """Run the rows; returns the exit status."""
    args = parse_args(argv)
    names = {row.name for row in ROWS}
    if wrong := [name for name in args.rows or () if name not in names]:
        print(f"no row is called {wrong[0]!r}; there are {', '.join(sorted(names))}", file=sys.stderr)
        return 2
    rows = [row for row in ROWS if row.tower in args.towers and row.name in (args.rows or names)]
    import tools.demo_steps  # noqa: F401 - quiets torch before it is imported
    from xmodal.engine.launch import run

    return run(lambda: tune(rows, args) if args.tune else show(rows, args))


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
