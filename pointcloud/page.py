"""A self-contained HTML page with an interactive 3D view of a cloud, its classes and its boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointcloud import boxes as box_ops

COLORS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#eeca3b", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac",
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
)  # fmt: skip
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
MOST_POINTS = 60_000  # shown; more makes browsers slow


def color_of(label: int) -> str:
    """A color per class."""
    return COLORS[label % len(COLORS)]


def thin(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of an even, repeatable choice of points."""
    return np.arange(count) if count <= most else np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def marker_size(count: int) -> float:
    """Pixels of a point: few points are drawn large."""
    return 3.5 if count < 3000 else 2.5 if count < 20_000 else 1.6


def point_traces(coord: np.ndarray, segment: np.ndarray | None, feat: np.ndarray | None, names: Sequence[str]) -> list:
    """One trace per class, or one in the cloud's own colors."""
    import plotly.graph_objects as go

    def trace(rows: np.ndarray, color: Any, name: str) -> Any:
        x, y, z = coord[rows].T.round(3)
        marker = dict(size=marker_size(len(coord)), color=color)
        return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=name, hoverinfo="name")

    if segment is None:
        own = "#7f7f7f"
        if feat is not None and feat.shape[1] >= 3:
            own = ["rgb({},{},{})".format(*c) for c in (feat[:, :3] * 255).clip(0, 255).astype(int)]  # type: ignore
        return [trace(np.arange(len(coord)), own, "points")]
    found = [int(c) for c in np.unique(segment) if c >= 0]
    return [trace(np.flatnonzero(segment == c), color_of(c), name_of(c, names)) for c in found]


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


def write_page(
    path: str | Path,
    coord: np.ndarray,
    names: Sequence[str] = (),
    segment: np.ndarray | None = None,
    feat: np.ndarray | None = None,
    found: dict[str, Any] | None = None,
    title: str = "point cloud",
) -> Path:
    """Write the page.

    Args:
        path: of the HTML file; it needs no network to open.
        coord: points (P, 3); at most `MOST_POINTS` are shown.
        names: of the classes.
        segment: class of each point (P,), for colors and a legend.
        feat: colors (P, 3) in 0..1, shown when there is no segment.
        found: `boxes` (N, 7), `box_label` (N,), `scores` (N,).
        title: shown above.

    Raises:
        ValueError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ValueError("pages need plotly: pip install 'xmodal[points]'") from error
    rows = thin(len(coord))
    traces = point_traces(
        coord[rows], None if segment is None else segment[rows], None if feat is None else feat[rows], names
    )
    if found is not None:
        traces += box_traces(found["boxes"], found["box_label"], found.get("scores"), names)
    figure = go.Figure(traces)
    note = "" if len(rows) == len(coord) else f" ({len(rows):,} of {len(coord):,} points shown)"
    axis = dict(backgroundcolor="white", gridcolor="#dddddd", title="")
    camera = dict(eye=dict(x=0.9, y=-1.5, z=1.2), center=dict(x=0, y=0, z=-0.15))
    figure.update_layout(
        title=title + note,
        scene=dict(aspectmode="data", xaxis=axis, yaxis=axis, zaxis=axis, camera=camera),
        margin=dict(l=0, r=0, b=0, t=40),
        legend=dict(itemsizing="constant"),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(str(path), include_plotlyjs=True, full_html=True, default_height="96vh")
    return Path(path)
