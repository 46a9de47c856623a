#!/usr/bin/env python
"""Make the tiny CLIP that ships with the project: image-text-label pretraining on the captioned shape world.

Losses (CLIP 2103.00020, UniCL 2204.03610): image-text contrast in which equal captions are positives; labels of shape
and colour on the class token; labels and geometry of the shape that a patch lies on. The label heads are thrown away.
The first third of the steps sees windows of 3 by 3 patches around one shape only (as FLIP 2212.00794 saves tokens).
Everything is fixed by the seed and the number of steps.
"""

import argparse
import json
import time
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "xmodal" / "assets"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder for tiny_clip.safetensors and .json")
    parser.add_argument("--steps", type=int, default=5600, help="optimiser steps in all")
    parser.add_argument("--pictures", type=int, default=60000, help="pictures to draw before training")
    parser.add_argument("--window-share", type=float, default=0.35, help="share of steps on windows around one shape")
    parser.add_argument("--window-batch", type=int, default=96)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Draw the pictures, train, measure, save."""
    args = parse_args()
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import cv2
    import torch

    from tools import tiny_clip

    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    start = time.process_time()
    pool = tiny_clip.Pool.draw(args.pictures, seed=args.seed)
    test = tiny_clip.Pool.draw(1000, seed=10**6 + args.seed)
    print(f"{args.pictures} pictures after {time.process_time() - start:.0f} CPU-s", flush=True)
    model = tiny_clip.train(pool, test, args, start)
    figures = tiny_clip.measure(model, test)
    minutes = (time.process_time() - start) / 60
    print(f"{minutes:.1f} CPU-minutes", json.dumps(figures))
    facts = {k: v for k, v in vars(args).items() if k != "out"}
    tiny_clip.save(model, args.out, {**facts, "cpu_minutes": round(minutes, 1)}, figures)


if __name__ == "__main__":
    main()
