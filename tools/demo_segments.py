#!/usr/bin/env python
"""A dense task end to end: which shape covers each pixel, read from EfficientNet-Lite0's maps by a light FPN.

The tower is frozen, with ImageNet's weights; one line trains the head alone, one adds Conv-Adapter, on request one
trains everything; each is tools/train.py and tools/test.py on one config, with the options that are printed. The
pictures are drawn by the project: figures on them say nothing about natural images.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

CONFIG = "configs/image/conv-adapter_efficientnet-lite0_64_segments.py"
LINES = {
    "frozen": ["model.adapters=[]"],
    "conv-adapter": [],
    "mona": ["variant=mona"],
    "finetune": ["model.adapters=[]", "model.freeze_encoder=false", "optim_wrapper.optimizer.lr=1e-3"],
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=Path("demo_out/segments"), help="folder of table and pictures")
    p.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES)[:2], metavar="NAME", help=", ".join(LINES))
    p.add_argument("--steps", type=int, default=1000, help="training steps of 8 pictures (default 1000)")
    p.add_argument("--pictures", type=int, default=600, help="training pictures (default 600)")
    p.add_argument("--tests", type=int, default=120, help="unseen pictures (default 120)")
    p.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default 64)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--weights", default="", help="a file with the tower's weights; default: the installed package's")
    return p.parse_args(argv)


def options_of(line: str, args: argparse.Namespace) -> list[str]:
    """Return the options of the config for a line of the table."""
    sizes = [f"{part}.size={args.size}" for part in (f"{s}_dataloader.dataset" for s in ("train", "val", "test"))]
    counts = [f"train_dataloader.dataset.count={args.pictures}", f"test_dataloader.dataset.count={args.tests}"]
    length = ["train_cfg.max_epochs=none", f"train_cfg.max_steps={args.steps}", f"train_cfg.val_interval={args.steps}"]
    warmup = ["param_scheduler.warmup_epochs=0", f"param_scheduler.warmup_steps={max(args.steps // 10, 1)}"]
    tower = [
        f"model.encoder.image_size={args.size}",
        *([f"model.encoder.checkpoint={args.weights}"] * bool(args.weights)),
    ]
    return [*LINES[line], *tower, *sizes, *counts, *length, *warmup]


def draw(path: Path, cfg: Any, checkpoint: Path) -> None:
    """Write the first test pictures, their truths and predictions as three rows of one image."""
    import numpy as np
    import torch
    from PIL import Image

    from xmodal.data.collate import collate
    from xmodal.engine.checkpoint import load_weights
    from xmodal.registry import DATASETS, MODELS, build

    model, data = build(cfg.model, MODELS).eval(), build(cfg.test_dataloader.dataset, DATASETS)
    load_weights(model, checkpoint)
    batch = collate([data[i] for i in range(min(8, len(data)))])
    with torch.no_grad():
        found = model(mode="predict", **model.data_preprocessor(batch))
    colors = np.random.default_rng(3).integers(60, 255, (16, 3)).astype(np.uint8)
    colors[0] = 20
    rows = zip(batch["image"], batch["segment"], (p["segment"] for p in found), strict=True)
    columns = [np.vstack([i.permute(1, 2, 0).numpy(), colors[t.numpy()], colors[p.numpy()]]) for i, t, p in rows]
    sheet = Image.fromarray(np.hstack(columns))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(path)


def run_line(line: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train, test and draw one line, and measure a step."""
    from tools.demo_steps import step_costs, train_and_test
    from xmodal.engine.config import load_config

    work, options = args.out / "runs" / line, options_of(line, args)
    report, test = train_and_test(CONFIG, work, args.seed, options)
    cfg = load_config(CONFIG, options)
    draw(args.out / f"{line}.png", cfg, work / "last.pth")
    costs = step_costs(cfg)
    print(f"{line}: mIoU {test['miou']:.1f} after {args.steps} steps", flush=True)
    return {
        "line": line, "trained": report["trained_parameters"], "kept_mb": costs["saved_mb"],
        "step_s": costs["median_s"], **{k: test[k] for k in ("miou", "pixel_accuracy", "iou")},
    }  # fmt: skip


HEADER = ("line", "mIoU (9)", "pixels right", "trained weights", "kept for backward", "CPU s a step")


def cells(r: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table."""
    figures = f"{r['miou']:.1f}", f"{r['pixel_accuracy']:.1f}", f"{r['trained']:,}", f"{r['kept_mb']:.1f} MB"
    return r["line"], *figures, f"{r['step_s']:.3f}"


def main(argv: list[str] | None = None) -> int:
    """Run the lines, print and keep the table; returns the exit status."""
    args = parse_args(argv)
    import tools.demo_steps  # noqa: F401 - quiets torch before it is imported
    from xmodal.engine.launch import run

    def job() -> None:
        from tools.demo_steps import keep_table, write_page

        results = [run_line(line, args) for line in args.lines]
        title = f"{args.tests} unseen pictures of {args.size} px, {args.steps} steps"
        keep_table(args.out, [HEADER, *map(cells, results)], results, title)
        folders = {line: args.out / "runs" / line for line in args.lines}
        print(f"\npage: {write_page(folders, args.out / 'report.html', 'Shapes, pixel by pixel', title)}")

    return run(job)


if __name__ == "__main__":
    import checkout  # noqa: F401 - puts the root of the checkout on the path

    sys.exit(main())
