"""A self-contained HTML page with an interactive 3D view of a cloud, its classes and its boxes."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointcloud import boxes as box_ops
from pointcloud.formats.frame import Frame
from pointcloud.formats.write import class_color

EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
MOST_POINTS = 60_000  # shown; more makes browsers slow
MOST_BOXES = 300
# Turn one view and the other follows.
TOGETHER = """
var page = document.getElementById('{plot_id}'), busy = false;
page.on('plotly_relayout', function(change) {
  if (busy) return;
  ['scene', 'scene2'].forEach(function(one, i) {
    var camera = change[one + '.camera'];
    if (!camera) return;
    busy = true;
    var other = {};
    other[['scene2', 'scene'][i] + '.camera'] = camera;
    Plotly.relayout(page, other).then(function() { busy = false; });
  });
});
"""


def color_of(label: int) -> str:
    """A color per class."""
    return "#{:02x}{:02x}{:02x}".format(*class_color(label))


def thin(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of an even, repeatable choice of points."""
    return np.arange(count) if count <= most else np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def marker_size(count: int) -> float:
    """Pixels of a point: few points are drawn large."""
    return 3.5 if count < 3000 else 2.5 if count < 20_000 else 1.6


def trace(coord: np.ndarray, color: Any, name: str, **more: Any) -> Any:
    """Points (P, 3) in one color, or in one each."""
    import plotly.graph_objects as go

    x, y, z = coord.T.astype(np.float32)
    marker = dict(size=marker_size(more.pop("of", len(coord))), color=color)
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=name, hoverinfo="name", **more)


def class_traces(coord: np.ndarray, segment: np.ndarray, names: Sequence[str], **more: Any) -> list:
    """One trace per class."""
    rows = [(int(c), segment == c) for c in np.unique(segment) if c >= 0]
    return [trace(coord[mine], color_of(c), name_of(c, names), of=len(coord), **more) for c, mine in rows]


def own_traces(coord: np.ndarray, feat: np.ndarray | None, **more: Any) -> list:
    """One trace in the cloud's own colors, gray where it has none."""
    if feat is None or feat.shape[1] < 3:
        return [trace(coord, "#7f7f7f", "points", **more)]
    levels = (feat[:, :3] * 255).round().clip(0, 255).astype(int)
    return [trace(coord, ["#{:02x}{:02x}{:02x}".format(*c) for c in levels.tolist()], "points", **more)]


def name_of(label: int, names: Sequence[str]) -> str:
    """The name of a class, or its number."""
    return names[label] if label < len(names) else f"class {label}"


def box_traces(boxes: np.ndarray, label: np.ndarray, scores: np.ndarray | None, names: Sequence[str]) -> list:
    """The edges of every box, its name and score above it; the legend shows and hides the boxes of a class."""
    import plotly.graph_objects as go

    traces: list[Any] = []
    points = box_ops.corners(torch.as_tensor(np.asarray(boxes, np.float64).reshape(-1, 7))).numpy()
    for i, corner in enumerate(points):
        lines = [v for a, b in EDGES for v in (corner[a], corner[b], [None] * 3)]
        x, y, z = zip(*lines, strict=True)
        kind, color = name_of(int(label[i]), names), color_of(int(label[i]))
        text = kind + (f" {scores[i]:.2f}" if scores is not None else "")
        first = not any(t.legendgroup == kind for t in traces)
        both = dict(legendgroup=kind, hovertext=text, hoverinfo="text")
        line = dict(color=color, width=6)
        traces.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, name=kind, showlegend=first, **both))
        top = corner[4:].mean(0) + [0, 0, 0.08]
        spot = dict(x=top[:1], y=top[1:2], z=top[2:], text=[text], textfont=dict(color="#111111", size=14))
        traces.append(go.Scatter3d(**spot, mode="text", showlegend=False, **both))
    return traces


def axes_of(frame: Frame) -> dict[str, Any]:
    """Return the layout of a view: axes with their names, units and offsets."""
    look = dict(backgroundcolor="white", gridcolor="#dddddd")
    titles = [f"{name} (m)" for name in ("x", "y", "z, up")]
    titles = [t if not o else f"{t} minus {o:.10g}" for t, o in zip(titles, frame.offset, strict=True)]
    axes = {f"{k}axis": dict(look, title=t) for k, t in zip("xyz", titles, strict=True)}
    camera = dict(eye=dict(x=0.9, y=-1.5, z=1.2), center=dict(x=0, y=0, z=-0.15))
    return dict(aspectmode="data", camera=camera, **axes)


def views_of(
    coord: np.ndarray, segment: np.ndarray | None, feat: np.ndarray | None, names: Sequence[str], frame: Frame
) -> tuple[list, dict[str, Any]]:
    """Traces and layout of one view, or of two when there are both colors and classes."""
    two = segment is not None and feat is not None and feat.shape[1] >= 3
    scenes: dict[str, Any] = {"scene": axes_of(frame)}
    traces = own_traces(coord, feat, showlegend=False) if segment is None or two else []
    if segment is not None:
        traces += class_traces(coord, segment, names, scene="scene2" if two else "scene")
    if two:
        scenes["scene"]["domain"] = dict(x=[0, 0.49])
        scenes["scene2"] = {**axes_of(frame), "domain": dict(x=[0.51, 1])}
    return traces, scenes


def about(shown: int, total: int, frame: Frame, notes: Sequence[str]) -> str:
    """Return the lines below the title: what is shown, where zero is, what was assumed."""
    lines = ["meters, z up"]
    if (frame.unit, frame.up) != ("m", "z"):
        lines[0] += f" (the file has {frame.unit}, {frame.up} up)"
    if frame.offset.any():
        lines.append(
            "axes are counted from the offset that they name; boxes and labels of the files have the full values"
        )
    if shown < total:
        lines.append(f"{shown:,} of {total:,} points are shown")
    return "<br>".join(html.escape(line) for line in [*lines, *list(notes)[:4]])


def write_page(
    path: str | Path,
    coord: np.ndarray,
    names: Sequence[str] = (),
    segment: np.ndarray | None = None,
    feat: np.ndarray | None = None,
    found: dict[str, Any] | None = None,
    title: str = "point cloud",
    frame: Frame | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the page.

    Args:
        path: of the HTML file; it needs no network to open.
        coord: points (P, 3); at most `MOST_POINTS` are shown.
        names: of the classes.
        segment: class of each point (P,): a view of its own beside the cloud's colors, with a legend.
        feat: colors (P, 3) in 0..1.
        found: `boxes` (N, 7) with the offset, `box_label` (N,), `scores` (N,).
        title: shown above.
        frame: of the cloud: its offset is named on the axes.
        notes: what was assumed, shown below the title.

    Raises:
        ValueError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ValueError("pages need plotly: pip install 'xmodal[points]'") from error
    frame = Frame() if frame is None else frame
    rows, notes = thin(len(coord)), list(notes)
    classes = None if segment is None else segment[rows]
    traces, scenes = views_of(coord[rows], classes, None if feat is None else feat[rows], names, frame)
    if found is not None:
        hidden = len(found["boxes"]) - MOST_BOXES
        notes = [f"the {MOST_BOXES} best of {len(found['boxes'])} boxes are shown", *notes] if hidden > 0 else notes
        boxes = np.asarray(found["boxes"], np.float64).reshape(-1, 7)[:MOST_BOXES].copy()
        boxes[:, :3] -= frame.offset
        traces += box_traces(boxes, found["box_label"], found.get("scores"), names)
    figure = go.Figure(traces)
    head = f"{html.escape(title)}<br><sup>{about(len(rows), len(coord), frame, notes)}</sup>"
    figure.update_layout(
        title=dict(text=head, y=0.98, yanchor="top"),
        margin=dict(l=0, r=0, b=0, t=110),
        legend=dict(itemsizing="constant"),
        **scenes,
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    script = [TOGETHER] if len(scenes) > 1 else None
    figure.write_html(str(path), include_plotlyjs=True, full_html=True, default_height="96vh", post_script=script)
    return Path(path)
