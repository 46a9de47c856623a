"""Parts of self-contained HTML pages: one style, tables, curves, confusion matrices, films, pictures and 3D views.

A page needs no network and no package: everything is in the one file. It follows the system's light or dark theme; `t`
switches, `j` and `k` go from exhibit to exhibit, the space bar plays and pauses.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

ASSETS = Path(__file__).parent / "assets"
SERIES = 8  # colors of curves and classes, then they repeat
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 470, 240, 52, 22, 36, 24
Curves = Mapping[str, Sequence[tuple[float, float]]]
KINDS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".ogv": "video/ogg",
         ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
         ".gif": "image/gif"}  # fmt: skip


def document(title: str, parts: Iterable[str], script: str = "") -> str:
    """Return a whole page.

    Args:
        title: of the page.
        parts: HTML, in order.
        script: JavaScript behind that of all pages.
    """
    style, code = ((ASSETS / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    keys = "t: light or dark &nbsp; j, k: next, previous &nbsp; space: play or pause &nbsp; arrows: turn, seek"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><header><h1>{escape(title)}</h1>"
        '<button id="theme" title="light or dark (t)" aria-label="light or dark">&#9681;</button></header><main>'
        + "\n".join(parts)
        + f"</main><footer>{keys}</footer><script>{code}\n{script}</script></body></html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """Return a part of a page below a heading; nothing when all parts are empty."""
    inside = "".join(parts)
    said = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{inside}</section>" if inside else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], fold: int | None = None) -> str:
    """Return a table; numbers stand at the right.

    Args:
        head: names of the columns.
        rows: text or numbers; None is left empty.
        fold: with more rows than this, the table is folded.
    """
    rows = list(rows)
    numeric = [bool(rows) and all(is_number(row[i]) for row in rows if row[i] is not None) for i in range(len(head))]
    kinds = [' class="num"' if number else "" for number in numeric]
    line = lambda tag, row: "<tr>" + "".join(  # noqa: E731
        f"<{tag}{kind}>{shown(value)}</{tag}>" for kind, value in zip(kinds, row, strict=True)
    ) + "</tr>"  # fmt: skip
    text = f"<table><thead>{line('th', head)}</thead><tbody>{''.join(line('td', row) for row in rows)}</tbody></table>"
    return folded(f"{len(rows)} rows", text) if fold is not None and len(rows) > fold else text


def is_number(value: Any) -> bool:
    """Return whether a cell is a number, or begins as one: `81.2`, `12 %`."""
    return isinstance(value, int | float) or str(value)[:1].isdigit()


def shown(value: Any) -> str:
    """Return a value as text of a page."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else escape(str(value))


def folded(title: str, inside: str) -> str:
    """Return a part that a click opens."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def code(text: str) -> str:
    """Return lines in fixed width."""
    return f"<pre>{escape(text)}</pre>"


def side_by_side(*parts: str) -> str:
    """Return parts in a row that wraps."""
    return f'<div class="side">{"".join(parts)}</div>' if any(parts) else ""


def chart(curves: Curves, y_name: str, x_name: str, top: float | None = None, dots: bool = False) -> str:
    """Return lines, or dots with their names, as SVG.

    Args:
        curves: points (x, y) by name.
        y_name: of the axis.
        x_name: of the axis.
        top: end of the vertical axis; the largest value when not given.
        dots: draw points alone, each with its name beside it.
    """
    points = [p for line in curves.values() for p in line] or [(1.0, 1.0)]
    x_max = max(max(p[0] for p in points), 1e-9) * (1.25 if dots else 1)
    y_max = top or max(max(p[1] for p in points), 1e-9) * 1.05
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP

    def at(x: float, y: float) -> tuple[str, str]:
        return f"{LEFT + x / x_max * width:.1f}", f"{TOP + (1 - y / y_max) * height:.1f}"

    out = [f'<text x="{LEFT}" y="14">{escape(y_name)}</text>']
    for i in range(5):
        y = f"{TOP + (1 - i / 4) * height:.1f}"
        out.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + width}" y1="{y}" y2="{y}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{tick(y_max * i / 4)}</text>')
    for value in (0, x_max / 2, x_max):
        out.append(f'<text x="{at(value, 0)[0]}" y="{HEIGHT - 20}" text-anchor="middle">{tick(value)}</text>')
    out.append(f'<text x="{LEFT + width / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    for number, (name, line) in enumerate(curves.items()):
        color = f"s{number % SERIES}"
        if not dots and len(line) > 1:
            out.append(f'<polyline class="{color}" points="{" ".join(",".join(at(*p)) for p in line)}"/>')
        for p in line if dots or len(line) < 40 else ():
            x, y = at(*p)
            said = escape(f"{name}: {p[1]:.4g} at {tick(p[0])}")
            out.append(
                f'<circle class="{color}" cx="{x}" cy="{y}" r="{4 if dots else 2.5}"><title>{said}</title></circle>'
            )
            out += [dot_name(name, x, y, p[0] > x_max / 2)] if dots else []
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_name)}">{"".join(out)}</svg>'
    names = f"<figcaption>{legend(list(curves))}</figcaption>" if not dots else ""
    return f'<figure class="chart">{drawing}{names}</figure>'


def dot_name(name: str, x: str, y: str, left: bool) -> str:
    """Return the name of a dot, to the left or right of it, above the grid's line."""
    side = 'dx="-7" text-anchor="end"' if left else 'dx="7"'
    return f'<text x="{x}" y="{y}" {side} dy="-5">{escape(name)}</text>'


def legend(names: Sequence[str]) -> str:
    """Return names beside the colors of their curves."""
    keys = (f'<span class="key s{i % SERIES}"></span>{escape(name)}' for i, name in enumerate(names))
    return " &nbsp; ".join(keys)


def tick(value: float) -> str:
    """Return a number of an axis: 0.5, 150, 120k, 1.2M."""
    if 0 < value < 0.01:
        return f"{value:.1e}"
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.3g}"


def confusion(title: str, counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Return a confusion matrix as a table: rows are true classes, shades their shares."""
    large = len(classes) > 16
    head = "".join(f'<th class="col">{escape(c)}</th>' for c in classes)
    rows = []
    for label, row in zip(classes, counts, strict=True):
        cells = []
        for guess, count in zip(classes, row, strict=True):
            share = count / max(sum(row), 1)
            said = escape(f"{label} taken for {guess}: {count}")
            kind = ' class="deep"' if share > 0.5 else ""
            cells.append(f'<td{kind} style="--share:{share:.2f}" title="{said}">{"" if large else count or ""}</td>')
        rows.append(f'<tr><th class="row">{escape(label)}</th>{"".join(cells)}</tr>')
    kind = "confusion large" if large else "confusion"
    return (
        f'<figure><b>{escape(title)}</b><table class="{kind}"><tr><th></th>{head}</tr>{"".join(rows)}</table></figure>'
    )


def data_url(content: bytes, ending: str) -> str:
    """Return content as an address that stands in the page itself."""
    return f"data:{KINDS[ending]};base64,{base64.b64encode(content).decode()}"


def exhibit(shown_part: str, *lines: str) -> str:
    """Return a film, picture or 3D view with lines (HTML) below; `j` and `k` stop here."""
    return f'<figure class="exhibit" tabindex="0">{shown_part}<figcaption>{"<br>".join(lines)}</figcaption></figure>'


def exhibits(parts: Sequence[str], wide: bool = False) -> str:
    """Return exhibits in a grid."""
    return f'<div class="exhibits{" wide" if wide else ""}">{"".join(parts)}</div>' if parts else ""


def film(source: str, controls: bool = False) -> str:
    """Return a film that plays, from an address; with controls it is played once, else again and again."""
    how = "controls" if controls else "loop"
    return f'<video src="{escape(source)}" {how} autoplay muted playsinline></video>'


def data(name: str, content: Any) -> str:
    """Return JSON values for the script of a page, as an element of this id."""
    text = json.dumps(content).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def picture(source: str, said: str = "") -> str:
    """Return a picture, from an address."""
    return f'<img src="{escape(source)}" alt="{escape(said)}">'


def verdict(right: bool | None, name: str, guess: str, score: float) -> str:
    """Return what was predicted as a line: a tick or a cross, and the score."""
    mark, kind = {True: ("&#10003; ", "yes"), False: ("&#10007; ", "no"), None: ("", "")}[right]
    who = f"{escape(name)}: " if name else ""
    return f'<span class="{kind}">{mark}{who}{escape(guess)} {100 * score:.0f} %</span>'


def cloud(
    coord: np.ndarray, color: np.ndarray | None = None, boxes: Sequence[tuple[Any, str]] = (), most: int = 8000
) -> str:
    """Return a 3D view that turns by mouse and arrow keys.

    Args:
        coord: points (P, 3), z up.
        color: of each (P, 3), 0 to 255; None draws them gray.
        boxes: corners (8, 3) and a name each.
        most: points that are drawn, an even choice of more.
    """
    if len(coord) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(coord), most, replace=False))
        coord, color = coord[rows], None if color is None else color[rows]
    low, high = coord.min(0), coord.max(0)
    scale = float(max((high - low).max(), 1e-9))
    place = lambda x: (np.asarray(x, np.float64) - (low + high) / 2) / scale  # noqa: E731
    points = ((place(coord) + 0.5) * 65535).round().clip(0, 65535).astype("<u2")
    color = np.full((len(coord), 3), 128) if color is None else color
    drawn = [{"corners": place(corners).round(4).tolist(), "name": name} for corners, name in boxes]
    text = lambda values: base64.b64encode(values.tobytes()).decode()  # noqa: E731
    return (
        f'<canvas class="cloud" width="480" height="360" tabindex="0" data-points="{text(points)}" '
        f'data-colors="{text(color.clip(0, 255).astype(np.uint8))}" data-boxes="{escape(json.dumps(drawn))}"></canvas>'
    )
