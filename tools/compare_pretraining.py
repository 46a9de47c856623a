"""Train pretraining recipes side by side at equal steps, several seeds, and tabulate zero-shot and retrieval figures.

python tools/compare_pretraining.py OUT [--seeds 0 1 2] [--pictures 6000] [--epochs 10]
"""

import argparse
import inspect
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {  # a config of configs/pretrain and its variant
    "clip_tiny-clip_32_shapes": ("unicl_tiny-clip_32_shapes", ["variant=clip"]),
    "unicl_tiny-clip_32_shapes": ("unicl_tiny-clip_32_shapes", []),
    "msclip_tiny_32_shapes_shared": ("msclip_tiny_32_shapes_shared", []),
    "msclip_tiny_32_shapes_unshared": ("msclip_tiny_32_shapes_shared", ["variant=unshared"]),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="folder of the runs and of comparison.json, comparison.md")
    p.add_argument("--recipes", nargs="+", default=list(RECIPES), help=f"of {', '.join(RECIPES)}")
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--pictures", type=int, default=6000)
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--unseen", type=int, default=1000, help="pictures of another world that figures are of")
    return p


def work_through(args: argparse.Namespace) -> None:
    """Run what is not finished, then write the table."""
    from xmodal.evaluation.results import once, write_result
    from xmodal.toys.shape_captions import ShapeCaptions

    alone = ShapeCaptions(args.unseen, world=8, size=32, alone=True, close=True)
    scenes = ShapeCaptions(args.unseen, labeled=0.0, world=9, size=32, close=True)
    rows = []
    for seed in args.seeds:
        for recipe in args.recipes:
            path = args.out / f"{recipe}-seed{seed}" / "figures.json"
            found = once(path, lambda r=recipe, s=seed: train_and_measure(r, s, args, alone, scenes))
            rows.append({"recipe": recipe, "seed": seed, **found})
            print(rows[-1], flush=True)
    write_result(args.out / "comparison.json", rows)
    text = table(rows)
    (args.out / "comparison.md").write_text(text + "\n")
    print(text)


def train_and_measure(recipe: str, seed: int, args: argparse.Namespace, alone, scenes) -> dict:
    """Train one recipe and measure it."""
    import torch

    from xmodal.engine.launch import prepare, train

    torch.manual_seed(seed)
    config, variant = RECIPES.get(recipe, (recipe, []))
    options = [*variant, f"train_dataloader.dataset.count={args.pictures}", f"train_cfg.max_epochs={args.epochs}"]
    options += [f"train_cfg.val_interval={args.epochs}"]
    cfg = prepare(str(ROOT / f"configs/pretrain/{config}.py"), str(args.out / f"{recipe}-seed{seed}"), options, seed)
    if "seed" in inspect.signature(cfg.model.clip.type).parameters:
        cfg.model.clip.seed = seed  # of the first weights
    start = time.process_time()
    model = train(cfg, "auto").model
    return {**measure(model, alone, scenes), "cpu_seconds": round(time.process_time() - start)}


def measure(model, alone, scenes) -> dict:
    """Zero-shot top-1 of 64 classes, its shape and color parts, and retrieval among all captions."""
    import torch

    from xmodal.encoders.clip import zero_shot_weights
    from xmodal.pretraining import retrieval
    from xmodal.toys.shape_captions import TEMPLATES
    from xmodal.toys.shapes import SHAPES

    model.eval()

    def features(dataset):
        with torch.no_grad():
            parts = torch.from_numpy(dataset.images).split(250)
            return torch.cat([model(mode="tensor", **model.data_preprocessor({"image": part})) for part in parts])

    best = (features(alone) @ zero_shot_weights(model.clip, alone.classes, TEMPLATES).t()).argmax(1)
    label = torch.from_numpy(alone.labels) - 1
    percent = lambda hits: 100 * hits.float().mean().item()  # noqa: E731
    figures = {"zero_shot": percent(best == label)}
    figures["shape"] = percent(best % len(SHAPES) == label % len(SHAPES))
    figures["color"] = percent(best // len(SHAPES) == label // len(SHAPES))
    ids = model.clip.tokenize(scenes.texts)
    with torch.no_grad():
        text = torch.cat([model.clip.encode_text(part, normalize=True) for part in ids.split(500)])
    same = (ids[:, None] == ids[None]).all(-1)
    figures |= retrieval(features(scenes), text, same)
    figures["weights"] = sum(p.numel() for p in model.parameters())
    return figures


def table(rows: list[dict]) -> str:
    """Means and standard deviations over seeds, markdown."""
    import numpy as np

    from xmodal.evaluation.results import markdown

    keys = ("zero_shot", "shape", "color", "i2t_r1", "i2t_r10", "t2i_r1", "t2i_r10")
    lines = []
    for recipe in dict.fromkeys(r["recipe"] for r in rows):
        own = [r for r in rows if r["recipe"] == recipe]
        cells = [f"{np.mean([r[k] for r in own]):.1f} ± {np.std([r[k] for r in own]):.1f}" for k in keys]
        lines.append([recipe, f"{own[0]['weights']:,}", str(len(own)), *cells])
    return markdown(["recipe", "weights", "seeds", *keys], lines)


def main(argv: list[str] | None = None) -> int:
    """Compare; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    return run(lambda: work_through(args))


if __name__ == "__main__":
    sys.exit(main())
