"""The demo's page: one HTML file with its table, curves, confusion matrices and playing clips, and nothing to fetch."""

import base64
from html import escape
from pathlib import Path

COLORS = ("#2563eb", "#d97706", "#64748b", "#059669")
WIDTH, HEIGHT, LEFT, BOTTOM = 420, 220, 44, 34
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .7rem; text-align: left; }
.results td, .results th { border-bottom: 1px solid var(--line); } .num { text-align: right; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.confusion td, .confusion th { padding: 0; font-size: .72rem; font-weight: normal; }
.confusion td { width: 2rem; height: 2rem; text-align: center; }
.confusion th.row { text-align: right; padding-right: .5rem; white-space: nowrap; }
.confusion th.col { writing-mode: vertical-rl; transform: rotate(180deg); height: 7rem; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 1rem; }
.clips video { width: 100%; image-rendering: pixelated; border-radius: 6px; background: #000; }
figure { margin: 0; } figcaption { font-size: .8rem; } .no { opacity: .65; } code { font-size: .8rem; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
pre { background: var(--soft); padding: .8rem; border-radius: 6px; overflow-x: auto; font-size: .8rem; }
"""


def write_page(path: Path, results: dict[str, dict], data: Path, minutes: float) -> Path:
    """Write the page.

    Args:
        path: the HTML file.
        results: by method `train` (its report.json), `test` (metrics), `predictions`, `minutes`, `commands`.
        data: the action set in list layout.
        minutes: of the whole demo.
    """
    classes = (data / "classes.txt").read_text().splitlines()
    first = next(iter(results))
    device = results[first]["train"]["device"]
    parts = [
        "<h1>Actions in video files, read through a frozen image encoder</h1>",
        f"<p>{len(results)} methods on the same frozen encoder and the same H.264 files; {minutes:.1f} minutes on "
        f"{escape(device)}. Every class comes with its reverse in time, so whoever is blind to order is right half the "
        "time at best. The encoder was pretrained on pictures of the same renderer (other seeds): this shows that "
        "the machinery works and says nothing about natural video.</p>",
        result_table(results),
        '<h2>While training</h2><div class="side">',
        chart(validation_curves(results), "validation accuracy, %", "epochs", 100),
        chart(loss_curves(results), "training loss", "share of training, %"),
        "</div>",
        "<h2>What is taken for what</h2><p>Rows are the true class, columns the predicted one.</p>",
        '<div class="side">'
        + "".join(confusion(n, r["test"]["confusion"], classes) for n, r in results.items())
        + "</div>",
        "<h2>Test clips</h2>",
        clips(results, data, classes),
        "<h2>The commands</h2><pre>" + escape("\n".join(c for r in results.values() for c in r["commands"])) + "</pre>",
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>xmodal demo</title><style>{STYLE}</style>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page + "\n".join(parts) + "</html>\n", encoding="utf-8")
    return path


def result_table(results: dict[str, dict]) -> str:
    """Accuracy, weights and minutes of each method."""
    rows = [
        "<tr><th>method<th class=num>test accuracy<th class=num>trained weights<th class=num>minutes<th>config</tr>"
    ]
    for name, result in results.items():
        report, test = result["train"], result["test"]
        share = 100 * report["trained_parameters"] / report["total_parameters"]
        rows.append(
            f"<tr><td>{escape(name)}<td class=num>{test['top1']:.1f} % of {test['evaluated']}"
            f"<td class=num>{report['trained_parameters']:,} ({share:.1f} %)<td class=num>{result['minutes']:.1f}"
            f"<td><code>{escape(result['config'])}</code></tr>"
        )
    return '<table class="results">' + "".join(rows) + "</table>"


def validation_curves(results: dict[str, dict]) -> dict[str, list[tuple[float, float]]]:
    """Validation accuracy over epochs."""
    return {n: [(e["epoch"], e["val"]["top1"]) for e in r["train"]["epochs"] if "val" in e] for n, r in results.items()}


def loss_curves(results: dict[str, dict]) -> dict[str, list[tuple[float, float]]]:
    """Training loss over the share of the steps."""
    curves = {}
    for name, result in results.items():
        history = result["train"]["history"]
        last = max((point["step"] for point in history), default=1)
        curves[name] = [(100 * point["step"] / last, point["loss"]) for point in history if "loss" in point]
    return curves


def chart(curves: dict[str, list[tuple[float, float]]], y_name: str, x_name: str, top: float | None = None) -> str:
    """Lines as SVG."""
    points = [p for line in curves.values() for p in line] or [(1.0, 1.0)]
    x_max, y_max = max(p[0] for p in points), top or max(p[1] for p in points) * 1.05
    width, height = WIDTH - LEFT - 10, HEIGHT - BOTTOM - 24

    def at(x: float, y: float) -> str:
        return f"{LEFT + x / x_max * width:.1f},{24 + (1 - y / y_max) * height:.1f}"

    out = [f'<text x="{LEFT}" y="14">{escape(y_name)}</text>']
    for i in range(5):
        y, value = 24 + (1 - i / 4) * height, y_max * i / 4
        out.append(f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>')
    for value in (0, x_max / 2, x_max):
        x = LEFT + value / x_max * width
        out.append(f'<text x="{x}" y="{HEIGHT - 18}" text-anchor="middle">{value:.3g}</text>')
    out.append(f'<text x="{LEFT + width / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    legend = []
    for (name, line), color in zip(curves.items(), COLORS, strict=False):
        route = " ".join(at(*p) for p in line)
        out.append(f'<polyline points="{route}" fill="none" stroke="{color}" stroke-width="2"/>')
        if len(line) == 1:
            x, y = at(*line[0]).split(",")
            out.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>')
        legend.append(f'<span style="color:{color}">&#9632;</span> {escape(name)}')
    drawing = f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(y_name)}">{"".join(out)}</svg>'
    return f"<figure>{drawing}<figcaption>{' &nbsp; '.join(legend)}</figcaption></figure>"


def confusion(name: str, counts: list[list[int]], classes: list[str]) -> str:
    """A confusion matrix as a table, shares of the true class as shades."""
    head = "".join(f'<th class="col">{escape(c)}</th>' for c in classes)
    rows = []
    for label, row in zip(classes, counts, strict=True):
        cells = []
        for count in row:
            share = count / max(sum(row), 1)
            ink = "color:#fff;" if share > 0.5 else ""
            cells.append(f'<td style="{ink}background:rgba(37,99,235,{share:.2f})">{count or ""}</td>')
        rows.append(f'<tr><th class="row">{escape(label)}</th>{"".join(cells)}</tr>')
    grid = f'<table class="confusion"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    return f"<figure><b>{escape(name)}</b>{grid}</figure>"


def chosen(results: dict[str, dict], classes: list[str]) -> list[str]:
    """Sample ids to show: one of each class, then some that the first method has wrong."""
    rows = next(iter(results.values()))["predictions"]
    picked = [next((p["sample_id"] for p in rows if p["label"] == label), None) for label in range(len(classes))]
    wrong = [p["sample_id"] for p in rows if best(p) != p["label"] and p["sample_id"] not in picked]
    return [p for p in picked if p] + wrong[:8]


def best(prediction: dict) -> int:
    """The class with the highest score."""
    return max(range(len(prediction["scores"])), key=prediction["scores"].__getitem__)


def clips(results: dict[str, dict], data: Path, classes: list[str]) -> str:
    """Playing clips with what each method says of them."""
    said = {name: {p["sample_id"]: p for p in r["predictions"]} for name, r in results.items()}
    figures = []
    for sample in chosen(results, classes):
        path = data / sample
        kind = "video/webm" if path.suffix == ".webm" else "video/mp4"
        source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        label = next(iter(said.values()))[sample]["label"]
        lines = [f"<b>{escape(classes[label])}</b>"]
        for name, predictions in said.items():
            guess = best(predictions[sample])
            mark, kind = ("&#10003;", "yes") if guess == label else ("&#10007;", "no")
            score = 100 * predictions[sample]["scores"][guess]
            lines.append(f'<span class="{kind}">{mark} {escape(name)}: {escape(classes[guess])} {score:.0f} %</span>')
        player = f'<video src="{source}" autoplay loop muted playsinline></video>'
        figures.append(f"<figure>{player}<figcaption>{'<br>'.join(lines)}</figcaption></figure>")
    note = "<p>One of each class, then some that the first method gets wrong, if there are any.</p>"
    return f'{note}<div class="clips">{"".join(figures)}</div>'
