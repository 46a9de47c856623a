"""Few-shot digits with a frozen ConvNet and a frozen ViT: python tools/demo_image.py.

Real scans (scikit-learn's digits), K shots a class, several seeds; one row a method, beside the linear probe and full
fine-tuning. `kept` is what a training step keeps for its backward pass, the part of the memory that methods differ in.
"""

import argparse
import json
import sys
import time
from pathlib import Path

LITE, TINY = "efficientnet_lite0", "tiny_clip_encoder"
# tower, row, adapter (or None), reader, learning rate, whether the tower trains
ROWS = [
    (LITE, "linear probe", None, None, 1e-2, False),
    (LITE, "conv_adapter", dict(type="conv_adapter", reduction=8), None, 2e-3, False),
    (LITE, "full fine-tuning", None, None, 3e-4, True),
    (TINY, "linear probe", None, None, 1e-2, False),
    (TINY, "vqt", None, dict(type="vqt", num_queries=2), 3e-3, False),
    (TINY, "lora", dict(type="lora", rank=8, targets=["q", "k", "v", "proj", "fc1", "fc2"]), None, 3e-3, False),
    (TINY, "vpt", dict(type="vpt", num_tokens=8), None, 1e-2, False),
    (TINY, "convpass", dict(type="convpass", hidden=16), None, 3e-3, False),
    (TINY, "ssf", dict(type="ssf"), None, 5e-3, False),
    (TINY, "full fine-tuning", None, None, 5e-4, True),
]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shots", type=int, default=16, help="training images a class (default 16)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="draws of the training images")
    p.add_argument("--epochs", type=int, default=12, help="passes over the training images (default 12)")
    p.add_argument("--tests", type=int, default=500, help="test images (default 500)")
    p.add_argument("--rows", nargs="+", help="only these rows, such as lora conv_adapter")
    p.add_argument("--out", default="work_dirs/demo_image", help="folder of table.md and table.json")
    return p


def digits(size, shots, seed, tests):
    """Training images, labels, test images, labels; float 0 to 255, (N, 3, size, size)."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images * (255 / 16), dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    labels = torch.tensor(data.target)
    fixed = np.random.default_rng(0).permutation(len(labels))
    test, pool = fixed[:tests], fixed[tests:]
    order = np.random.default_rng([1, seed]).permutation(pool)
    train = np.concatenate([order[data.target[order] == c][:shots] for c in range(10)])
    return images[train], labels[train], images[test], labels[test]


def build_model(tower, adapter, reader, trains, size):
    """The model of one row."""
    from xmodal.model import TransferModel

    return TransferModel(
        encoder=dict(type=tower, image_size=size),
        adapters=[adapter] if adapter else [],
        reader=reader,
        head=dict(type="classification", num_classes=10),
        freeze_encoder=not trains,
    )


def kept_bytes(model, batch) -> int:
    """Bytes that one training step keeps for its backward pass, weights left out."""
    import torch

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(mode="loss", **batch)["loss"]
    return sum(seen.values())


def train(model, images, labels, rate, epochs, seed) -> tuple[float, int]:
    """Train; seconds a step and bytes kept."""
    import numpy as np
    import torch

    weights = [p for p in model.parameters() if p.requires_grad]
    steps = epochs * -(-len(labels) // 32)
    optimiser = torch.optim.AdamW(weights, rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    model.train()
    kept, begin = 0, time.perf_counter()
    for epoch in range(epochs):
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(labels)))
        for rows in order.split(32):
            batch = model.data_preprocessor({"image": images[rows], "label": labels[rows]})
            kept = kept or kept_bytes(model, batch)
            loss = model(mode="loss", **batch)["loss"]
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
    return (time.perf_counter() - begin) / steps, kept


def accuracy(model, images, labels) -> float:
    """Top-1 in percent."""
    import torch

    model.eval()
    right = 0
    with torch.no_grad():
        for rows in torch.arange(len(labels)).split(100):
            batch = model.data_preprocessor({"image": images[rows]})
            right += int((model(mode="tensor", **batch).argmax(1) == labels[rows]).sum())
    return 100 * right / len(labels)


def run_row(row, args) -> dict:
    """One method over all seeds."""
    import numpy as np
    import torch

    from xmodal.encoders.frozen import count

    tower, name, adapter, reader, rate, trains = row
    size = 64 if tower == LITE else 48
    scores, seconds, kept, weights = [], [], 0, 0
    for seed in args.seeds:
        torch.manual_seed(seed)
        images, labels, test, truth = digits(size, args.shots, seed, args.tests)
        model = build_model(tower, adapter, reader, trains, size)
        weights = count(model, trained_only=True)
        step, kept = train(model, images, labels, rate, args.epochs, seed)
        scores.append(accuracy(model, test, truth))
        seconds.append(step)
    return {
        "tower": tower, "method": name, "top1": float(np.mean(scores)), "spread": float(np.std(scores)),
        "trained": weights, "kept_mb": kept / 2**20, "step_s": float(np.median(seconds)), "scores": scores,
    }  # fmt: skip


HEADER = "| tower | method | top-1 (mean, deviation) | trained weights | kept for backward | seconds a step |"


def line(r: dict) -> str:
    """A row of the table."""
    return (
        f"| {r['tower']} | {r['method']} | {r['top1']:.1f} ({r['spread']:.1f}) | {r['trained']:,} | "
        f"{r['kept_mb']:.1f} MB | {r['step_s']:.3f} |"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the rows; prints and writes the table."""
    args = parser().parse_args(argv)
    names = {row[1] for row in ROWS}
    wrong = [name for name in args.rows or () if name not in names]
    if wrong:
        print(f"no row is called {wrong[0]!r}; there are {', '.join(sorted(names))}", file=sys.stderr)
        return 2
    print(
        f"digits, {args.shots} shots a class, seeds {args.seeds}, {args.tests} test images\n\n{HEADER}\n{'|---' * 6}|"
    )
    results = []
    for row in ROWS:
        if not args.rows or row[1] in args.rows:
            results.append(run_row(row, args))
            print(line(results[-1]), flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text("\n".join([HEADER, "|---" * 6 + "|", *map(line, results)]) + "\n")
    (out / "table.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
