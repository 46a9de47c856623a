"""Few-shot digits with a frozen ConvNet and a frozen ViT: python tools/demo_image.py.

Real scans (scikit-learn's digits), K shots a class, several seeds; one row a method, beside the linear probe and full
fine-tuning. The learning rates below were chosen with --tune, on validation images that are neither trained on nor
tested; the last epoch counts. Peak memory is that of one training step beyond weights and inputs.
"""

import argparse
import base64
import io
import json
import os
import statistics
import sys
import time
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LITE, TINY = "efficientnet_lite0", "tiny_clip_encoder"
SIZES = {LITE: 48, TINY: 48}
BATCH = 32
EVERY_LAYER = ["q", "k", "v", "proj", "fc1", "fc2"]


class Row(NamedTuple):
    """A method on a tower."""

    tower: str
    name: str
    rate: float
    adapter: dict[str, Any] | None = None
    reader: dict[str, Any] | None = None
    trains: bool = False


ROWS = [
    Row(LITE, "linear probe", 1e-2),
    Row(LITE, "conv_adapter", 3e-3, dict(type="conv_adapter", reduction=8)),
    Row(LITE, "full fine-tuning", 3e-3, trains=True),
    Row(TINY, "linear probe", 1e-1),
    Row(TINY, "vqt", 9e-2, reader=dict(type="vqt", num_queries=2)),
    Row(TINY, "lora", 1e-2, dict(type="lora", rank=8, targets=EVERY_LAYER)),
    Row(TINY, "vpt", 3e-2, dict(type="vpt", num_tokens=8)),
    Row(TINY, "convpass", 1e-2, dict(type="convpass", hidden=16)),
    Row(TINY, "ssf", 3e-2, dict(type="ssf")),
    Row(TINY, "full fine-tuning", 1e-3, trains=True),
]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shots", type=int, default=16, help="training images a class (default 16)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="draws of the training images")
    p.add_argument("--epochs", type=int, default=12, help="passes over the training images (default 12)")
    p.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows, such as lora conv_adapter")
    p.add_argument("--towers", nargs="+", choices=SIZES, default=list(SIZES), metavar="NAME", help=", ".join(SIZES))
    p.add_argument("--tune", action="store_true", help="try rates with the first seed, on the validation images")
    p.add_argument(
        "--out", type=Path, default=Path("demo_out/image"), help="folder of table.md, table.json, index.html"
    )
    return p.parse_args(argv)


def digits(size: int, shots: int, seed: int, split: str = "test") -> tuple:
    """Training images and labels, then those of the split; float 0 to 255, (N, 3, size, size)."""
    import torch

    from xmodal.toys.digits import Digits

    parts = (Digits(name, size, shots, seed, test_mode=True) for name in ("train", split))
    return tuple(x for p in parts for x in (p.images.expand(-1, 3, -1, -1), torch.from_numpy(p.labels)))


def build_model(row: Row) -> Any:
    """The model of a row."""
    from xmodal.model import TransferModel

    return TransferModel(
        encoder=dict(type=row.tower, image_size=SIZES[row.tower]),
        adapters=[row.adapter] if row.adapter else [],
        reader=row.reader,
        head=dict(type="classification", num_classes=10),
        freeze_encoder=not row.trains,
    )


class Inputs:
    """Images of one split as a model's batches; where nothing inside the tower trains, its part is computed once."""

    def __init__(self, model: Any, images: Any, labels: Any):
        import torch

        self.model, self.images, self.labels, self.kept = model, images, labels, None
        if any(p.requires_grad for p in model.encoder.parameters()):
            return
        model.eval()
        parts = [model.frozen_part(image=self.normalized(rows)) for rows in torch.arange(len(labels)).split(100)]
        self.kept = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0]}
        self.grid = parts[0][1]

    def normalized(self, rows: Any) -> Any:
        """Images as the tower wants them."""
        return self.model.data_preprocessor({"image": self.images[rows]})["image"]

    def features(self, rows: Any) -> Any:
        """Features (B, D) of some images."""
        if self.kept is None:
            return self.model.features(image=self.normalized(rows))
        return self.model.trained_part({name: tensor[rows] for name, tensor in self.kept.items()}, self.grid)


def train(model: Any, inputs: Inputs, rate: float, epochs: int, seed: int) -> None:
    """AdamW, a fifth of the steps warm-up, then a cosine."""
    import numpy as np
    import torch

    weights = [p for p in model.parameters() if p.requires_grad]
    steps = epochs * -(-len(inputs.labels) // BATCH)
    optimizer = torch.optim.AdamW(weights, rate, weight_decay=1e-4)
    total = max(steps, 10)  # a warm-up of two steps at least
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total, pct_start=0.2)
    model.train()
    for epoch in range(epochs):
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(inputs.labels)))
        for rows in order.split(BATCH):
            loss = model.head.loss(inputs.features(rows), inputs.labels[rows])["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()


def predict(model: Any, inputs: Inputs) -> Any:
    """Predicted classes (N,)."""
    import torch

    model.eval()
    with torch.no_grad():
        rows = torch.arange(len(inputs.labels)).split(100)
        return torch.cat([model.head(inputs.features(r)).argmax(1) for r in rows])


def costs(row: Row) -> dict[str, float]:
    """What a training step from pixels costs: seconds (median of 5) and peak megabytes."""
    import torch

    from tools.benches.peak import peak_megabytes

    model, size = build_model(row).train(), SIZES[row.tower]
    batch = dict(image=torch.zeros(BATCH, 3, size, size), label=torch.zeros(BATCH, dtype=torch.long))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(mode="loss", **batch)["loss"].backward()

    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"step_s": statistics.median(seconds[1:]), "peak_mb": peak_megabytes(step)}


def run_once(row: Row, args: argparse.Namespace, seed: int, split: str = "test") -> tuple[float, list[int], Any]:
    """Train with one seed; accuracy in percent and predictions on the split, and the model."""
    import torch

    torch.manual_seed(seed)
    images, labels, unseen, truth = digits(SIZES[row.tower], args.shots, seed, split)
    model = build_model(row)
    train(model, Inputs(model, images, labels), row.rate, args.epochs, seed)
    said = predict(model, Inputs(model, unseen, truth))
    return 100 * float((said == truth).float().mean()), said.tolist(), model


def tune(rows: list[Row], args: argparse.Namespace) -> list[Row]:
    """Find each row's rate on the validation images: its own, a third, three times; further where an end is best."""
    tuned = []
    for row in rows:
        found: dict[float, float] = {}
        best = row.rate
        for _ in range(3):
            for rate in (best / 3, best, best * 3):
                rate = float(f"{rate:.0e}")
                if rate not in found:
                    found[rate] = run_once(row._replace(rate=rate), args, args.seeds[0], "val")[0]
            best = max(sorted(found), key=lambda r: found[r])
            if min(found) < best < max(found):
                break
        listed = ", ".join(f"{rate:g}: {found[rate]:.1f}" for rate in sorted(found))
        print(f"{row.tower} {row.name}: {listed}; best {best:g}", flush=True)
        tuned.append(row._replace(rate=best))
    return tuned


def run_row(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """One method over all seeds."""
    from xmodal.encoders.frozen import count

    runs = [run_once(row, args, seed) for seed in args.seeds]
    scores = [score for score, _, _ in runs]
    return {
        "tower": row.tower, "method": row.name, "rate": row.rate, "top1": statistics.mean(scores),
        "lowest": min(scores), "highest": max(scores), "scores": scores, "said": runs[0][1],
        "trained": count(runs[0][2], trained_only=True), **costs(row),
    }  # fmt: skip


HEADER = ("tower", "method", "top-1 (lowest to highest)", "trained weights", "peak memory", "seconds a step")


def cells(r: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    spread = f"{r['top1']:.1f} ({r['lowest']:.1f} to {r['highest']:.1f})"
    return r["tower"], r["method"], spread, f"{r['trained']:,}", f"{r['peak_mb']:.1f} MB", f"{r['step_s']:.3f}"


def markdown(row: tuple[str, ...]) -> str:
    """A row as markdown."""
    return f"| {' | '.join(row)} |"


def page(results: list[dict[str, Any]], args: argparse.Namespace, title: str) -> str:
    """The table, and test images with what the first method of each tower but the probe says."""
    head = "".join(f"<th>{escape(c)}" for c in HEADER)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}" for c in cells(r)) for r in results)
    shown = {r["tower"]: r for r in reversed(results) if r["method"] != "linear probe"}
    parts = [f"<h2>{escape(r['tower'])}, {escape(r['method'])}</h2>{sheet(r, args)}" for r in shown.values()]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Digits, few shots</title><style>'
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td,th{text-align:left;padding:.2rem .8rem;border-bottom:1px solid #8884}img{image-rendering:pixelated}"
        f"</style><h1>Digits, few shots</h1><p>{escape(title)}</p><table><tr>{head}{body}</table>"
        f"{''.join(parts)}</html>\n"
    )


def sheet(result: dict[str, Any], args: argparse.Namespace) -> str:
    """Test images a method got wrong with its first seed, as an embedded picture with a line of text."""
    import numpy as np
    from PIL import Image

    _, _, images, truth = digits(32, args.shots, args.seeds[0])
    wrong = [i for i, said in enumerate(result["said"]) if said != int(truth[i])]
    if not wrong:
        return f"<p>All {len(truth)} test images are right.</p>"
    picture = np.hstack([images[i, 0].numpy().astype(np.uint8) for i in wrong[:16]])
    buffer = io.BytesIO()
    Image.fromarray(picture).resize((picture.shape[1] * 2, 64), Image.Resampling.NEAREST).save(buffer, "PNG")
    said = ", ".join(f"{int(truth[i])} as {result['said'][i]}" for i in wrong[:16])
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p>{len(wrong)} of {len(truth)} are wrong: {said}</p><img src="data:image/png;base64,{data}" alt="digits">'


def main(argv: list[str] | None = None) -> int:
    """Run the rows; prints and writes the table and the page."""
    args = parse_args(argv)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's memory profile warns of what was there before
    sys.path.insert(0, str(ROOT))
    names = {row.name for row in ROWS}
    wrong = [name for name in args.rows or () if name not in names]
    if wrong:
        print(f"no row is called {wrong[0]!r}; there are {', '.join(sorted(names))}", file=sys.stderr)
        return 2
    rows = [row for row in ROWS if row.tower in args.towers and row.name in (args.rows or names)]
    from xmodal.engine.launch import run

    return run(lambda: tune(rows, args) if args.tune else show(rows, args))


def show(rows: list[Row], args: argparse.Namespace) -> None:
    """Run, print, write."""
    began = time.perf_counter()
    title = (
        f"scikit-learn's digits, {args.shots} training images a class, 500 test images, "
        f"mean of {len(args.seeds)} draws ({args.epochs} epochs, last epoch)"
    )
    print(f"{title}\n\n{markdown(HEADER)}\n{markdown(('---',) * 6)}", flush=True)
    results = []
    for row in rows:
        results.append(run_row(row, args))
        print(markdown(cells(results[-1])), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [markdown(HEADER), markdown(("---",) * 6), *(markdown(cells(r)) for r in results)]
    (args.out / "table.md").write_text("\n".join([title, "", *lines]) + "\n")
    (args.out / "table.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "index.html").write_text(page(results, args, title), encoding="utf-8")
    print(f"\n{(time.perf_counter() - began) / 60:.1f} minutes; page: {args.out / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
