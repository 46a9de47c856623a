"""The page of a long video: it plays above a line of time with what was predicted when."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from video.reencode import reencode
from xmodal import page
from xmodal.atomic import write_text
from xmodal.engine.classes import name_of

EMBEDDED = 6 * 2**20  # bytes of a film that is kept in its page; a larger one is played from beside it
PLAYED = (".mp4", ".m4v", ".mov", ".webm")  # endings of films that browsers play
ROWS = 4  # classes with a curve
WIDE, HIGH = 1000, 120
SCRIPT = """
const film = document.querySelector(".film video"), times = JSON.parse(document.getElementById("times").textContent);
const line = document.getElementById("now"), said = document.getElementById("said");
function now() {
  const x = film.currentTime / times.seconds * times.wide;
  line.setAttribute("x1", x); line.setAttribute("x2", x);
  const at = times.segments.find(s => film.currentTime < s.end) || times.segments[times.segments.length - 1];
  said.textContent = `${film.currentTime.toFixed(1)} s: ${at.name} ${Math.round(100 * at.score)} %`;
  requestAnimationFrame(now);
}
now();
function seek(to) { film.currentTime = Math.max(0, Math.min(times.seconds, to)); }
document.querySelector("svg.line").onclick = event => {
  const box = event.currentTarget.getBoundingClientRect();
  seek((event.clientX - box.left) / box.width * times.seconds);
};
document.querySelectorAll("[data-seek]").forEach(link => { link.onclick = () => seek(Number(link.dataset.seek)); });
document.addEventListener("keydown", event => {
  if (event.key === "ArrowRight") seek(film.currentTime + times.stride);
  if (event.key === "ArrowLeft") seek(film.currentTime - times.stride);
});
"""


def write_page(path: Path, row: dict[str, Any], scores: Tensor, classes: Sequence[str], stride: float) -> Path:
    """Write the page of a video.

    Args:
        path: of the page.
        row: from `Timeline.row_of`.
        scores: of its windows (W, K).
        classes: names by label.
        stride: seconds that an arrow key seeks.
    """
    best = scores.mean(0).topk(min(ROWS, scores.shape[1])).indices.tolist()
    often = sorted({w["label"] for w in row["windows"] if w["label"] is not None} - set(best))
    labels = {k: name_of(k, classes) for k in (best + often)[: page.SERIES]}
    centers = [(w["start"] + w["end"]) / 2 for w in row["windows"]]
    curves = {name: list(zip(centers, scores[:, k].tolist(), strict=True)) for k, name in labels.items()}
    times = {"seconds": row["seconds"], "wide": WIDE, "stride": stride, "segments": row["segments"]}
    spans = [
        [f"{s['start']:.2f} s", f"{s['end']:.2f} s", s["name"], round(100 * s["score"], 1)] for s in row["segments"]
    ]
    window = row["windows"][0]["end"] - row["windows"][0]["start"]
    parts = [
        f"<p>windows of {window:g} s, one every {stride:g} s; click the line, or use the arrow keys, to seek</p>",
        f'<div class="film">{page.film(playable(row["file"], path), controls=True)}</div>',
        f'<p id="said" aria-live="polite"></p>{bar(row, curves)}<p>{page.legend(list(labels.values()))}</p>',
        page.section("What happens when", page.table(("from", "to", "class", "score, %"), spans, fold=60)),
        page.data("times", times),
    ]
    write_text(path, page.document(f"{Path(row['file']).name}: {row['name']}", parts, SCRIPT))
    return path


def bar(row: dict[str, Any], curves: page.Curves) -> str:
    """Return the line of time as SVG: segments in their classes' colors, and curves of scores above them."""
    x = lambda t: f"{t / row['seconds'] * WIDE:.1f}"  # noqa: E731
    out, colors = [], {name: i for i, name in enumerate(curves)}
    for name, line in curves.items():
        points = " ".join(f"{x(t)},{HIGH - 34 - score * (HIGH - 44):.1f}" for t, score in line)
        out.append(f'<polyline class="s{colors[name]}" points="{points}"/>')
    for s in row["segments"]:
        kind = f"s{colors[s['name']]}" if s["name"] in colors else "s7"
        wide = max(float(x(s["end"])) - float(x(s["start"])), 0.5)
        said = escape(f"{s['name']}, {s['start']:.1f} to {s['end']:.1f} s")
        place = f'x="{x(s["start"])}" y="{HIGH - 28}" width="{wide:.1f}" height="26"'
        out.append(f'<rect class="{kind}" {place}><title>{said}</title></rect>')
    out.append(f'<line id="now" y1="0" y2="{HIGH}" stroke="currentColor" stroke-width="2"/>')
    return f'<svg class="line" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="timeline">{"".join(out)}</svg>'


def playable(file: str, beside: Path) -> str:
    """Return the URL of a video for a page: a data URL when it is small, else a path relative to the page.

    What browsers do not play is copied beside the page as H.264.
    """
    source = Path(file)
    if source.suffix.lower() not in PLAYED:
        source = beside.with_suffix(".mp4")
        reencode(file, source, short_side=360)
    if source.stat().st_size <= EMBEDDED:
        return page.data_url(source.read_bytes(), source.suffix.lower())
    return Path(os.path.relpath(source.absolute(), beside.parent.absolute())).as_posix()
