#!/usr/bin/env python
"""A dense task end to end: which shape covers each pixel, read from EfficientNet-Lite0's maps by a light FPN.

The tower is frozen, with ImageNet's weights; one line trains the head alone, one adds Conv-Adapter, on request one
trains everything. The pictures are drawn by the project: figures on them say nothing about natural images.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINES = ("frozen", "conv-adapter", "finetune")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=Path("demo_out/segments"), help="folder of table and pictures")
    p.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES[:2]), metavar="NAME", help=", ".join(LINES))
    p.add_argument("--steps", type=int, default=1000, help="training steps of 8 pictures (default 1000)")
    p.add_argument("--pictures", type=int, default=600, help="training pictures (default 600)")
    p.add_argument("--tests", type=int, default=120, help="unseen pictures (default 120)")
    p.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default 64)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--weights", default="", help="a file with the tower's weights; default: the installed package's")
    return p.parse_args(argv)


def build_model(line: str, size: int, num_classes: int, weights: str = "") -> Any:
    """The model of a line."""
    from xmodal.adapters.conv_adapter import conv_adapter
    from xmodal.dense import SegmentationModel
    from xmodal.encoders.efficientnet_lite import efficientnet_lite0
    from xmodal.heads.dense import LightFPN

    adapters = [dict(type=conv_adapter, reduction=8, norms="none")] if line == "conv-adapter" else []
    return SegmentationModel(
        encoder=dict(type=efficientnet_lite0, image_size=size, checkpoint=weights),
        head=dict(type=LightFPN, num_classes=num_classes, class_weight=[0.2] + [1.0] * (num_classes - 1)),
        adapters=adapters,
        freeze_encoder=line != "finetune",
    )


def fit(model: Any, train: Any, steps: int, lr: float, seed: int, batch_size: int = 8) -> dict[str, float]:
    """Train with AdamW, warm-up and a cosine; CPU seconds a step, and megabytes kept for the backward pass."""
    import torch

    from tools.benches.measure import saved_megabytes
    from xmodal.data.collate import collate
    from xmodal.data.sampler import order_of

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=1e-4)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    model.train()
    seconds, kept, warmup, per_epoch = [], 0.0, max(steps // 10, 1), max(len(train) // batch_size, 1)
    for step in range(steps):
        epoch, at = divmod(step, per_epoch)
        rows = order_of(len(train), seed, epoch)[at * batch_size :][:batch_size]
        batch = model.data_preprocessor(collate([train[epoch, int(i)] for i in rows]), training=True)
        if not step:
            kept = saved_megabytes(lambda b=batch: model(mode="loss", **b)["loss"], own)
        start = time.process_time()
        decay = 0.5 + 0.5 * math.cos(math.pi * max(step - warmup, 0) / max(steps - warmup, 1))
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / warmup, decay)
        loss = model(mode="loss", **batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return {"step_s": sorted(seconds)[len(seconds) // 2], "kept_mb": kept, "loss": float(loss.detach())}


def test(model: Any, data: Any) -> tuple[dict[str, Any], list[tuple]]:
    """Metrics over a data set, and image, truth and prediction of its first pictures."""
    import torch

    from xmodal.data.collate import collate
    from xmodal.dense import MeanIoU

    metric, shown, model = MeanIoU(len(data.classes)), [], model.eval()
    with torch.no_grad():
        for start in range(0, len(data), 20):
            batch = collate([data[i] for i in range(start, min(start + 20, len(data)))])
            predictions = model(mode="predict", **model.data_preprocessor(batch))
            metric.process(batch, predictions)
            if not start:
                said = (p["segment"] for p in predictions)
                shown = list(zip(batch["image"], batch["segment"], said, strict=True))[:8]
    return metric.evaluate(len(data)), shown


def draw(path: Path, rows: list[tuple]) -> None:
    """Write pictures, truths and predictions as three rows of one image."""
    import numpy as np
    from PIL import Image

    colors = np.random.default_rng(3).integers(60, 255, (16, 3)).astype(np.uint8)
    colors[0] = 20
    columns = [np.vstack([i.permute(1, 2, 0).numpy(), colors[t.numpy()], colors[p.numpy()]]) for i, t, p in rows]
    sheet = Image.fromarray(np.hstack(columns))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(path)


def run_line(line: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train and test one line."""
    import torch

    from xmodal.toys.shape_segments import ShapeSegments

    torch.manual_seed(args.seed)
    train = ShapeSegments(args.pictures, args.size, flip=True, seed=args.seed)
    model = build_model(line, args.size, len(train.classes), args.weights)
    costs = fit(model, train, args.steps, 1e-3 if line == "finetune" else 5e-3, args.seed)
    found, shown = test(model, ShapeSegments(args.tests, args.size, world=1))
    draw(args.out / f"{line}.png", shown)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"line": line, "trained": trained, **{k: found[k] for k in ("miou", "pixel_accuracy", "iou")}, **costs}


def table(results: list[dict[str, Any]]) -> str:
    """The results as text."""
    rows = ["| line | mIoU (9) | pixels right | trained weights | kept for backward | CPU s a step |", "|---" * 6 + "|"]
    rows += [
        f"| {r['line']} | {r['miou']:.1f} | {r['pixel_accuracy']:.1f} | {r['trained']:,} | {r['kept_mb']:.1f} MB "
        f"| {r['step_s']:.3f} |"
        for r in results
    ]
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Run the lines; prints and keeps the table."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    from xmodal.engine.launch import run

    def job() -> None:
        args.out.mkdir(parents=True, exist_ok=True)
        results = []
        for line in args.lines:
            results.append(run_line(line, args))
            print(f"{line}: mIoU {results[-1]['miou']:.1f} after {args.steps} steps", flush=True)
        print(f"{args.tests} unseen pictures of {args.size} px, {args.steps} steps\n\n{table(results)}")
        (args.out / "table.md").write_text(table(results) + "\n")
        (args.out / "table.json").write_text(json.dumps(results, indent=1) + "\n")

    return run(job)


if __name__ == "__main__":
    sys.exit(main())
