"""Say what happens when in long videos: a prediction for each of many windows, and a page with the video above them."""

import os
import tempfile
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video.decode import VideoError
from video.windows import Windows
from xmodal.engine.predict import Predictor, ahead, dataset_of_files, described
from xmodal.use.timeline_page import write_page


class Timeline:
    """Predict windows of videos.

    Args:
        predictor: of a model of videos.
        window: seconds of a window.
        stride: seconds from one window to the next.
        top: how many classes to name.
        min_score: windows whose best class has less are named nothing.
    """

    def __init__(
        self, predictor: Predictor, window: float, stride: float, top: int = 5, min_score: float | None = None
    ):
        self.predictor, self.window, self.stride, self.top = predictor, window, stride, top
        self.min_score = min_score or 0.0

    def stream(self, files: list[str], out: str | None = None, names: list[str] | None = None) -> Iterator[dict]:
        """Yield a row for each video.

        Args:
            files: paths.
            out: folder of the pages; None writes none.
            names: relative paths of the pages, without ending.

        Yields:
            `file`, `seconds`, `fps`, `windows` (start, end, label, name, score, top), `segments` (start, end, name,
            score: neighboring windows of one class), `page`, and label, name, score, top and scores of the mean over
            the windows; or `error`.
        """
        for number, file in enumerate(files):
            try:
                row, scores = self.row_of(file)
                if out is not None:
                    path = Path(out) / f"{(names or files)[number]}.html"
                    row["page"] = str(write_page(path, row, scores, self.predictor.classes, self.stride))
            except (VideoError, ValueError, OSError) as error:
                row = {"file": file, "error": str(getattr(error, "reason", error))}
            yield row

    def row_of(self, file: str) -> tuple[dict[str, Any], Tensor]:
        """Return the row of a video, and the scores (W, K) of its windows."""
        if not os.path.exists(file):
            raise ValueError(f"no file at {file}")
        predictor = self.predictor
        with tempfile.TemporaryDirectory() as folder:
            windows = Windows(dataset_of_files(predictor.dataset, [file], Path(folder)), file, self.window, self.stride)
        found: list[Tensor] = []
        for spans, clips in ahead(windows.read, windows.parts(), min(predictor.readers, 1), 1):
            for part in torch.arange(len(spans)).split(predictor.batch_size):
                rows = predictor.computed(predictor.scores, [{"clips": clips[i], "sample_id": file} for i in part])
                if bad := [row["error"] for row in rows if isinstance(row, dict)]:
                    raise ValueError(bad[0])
                found += rows
        scores = torch.stack(found)
        row = {"file": file, **described(scores.mean(0), predictor.classes, self.top)}
        if "error" in row:
            raise ValueError(row["error"])
        times = [(start / windows.fps, stop / windows.fps) for start, stop in windows.spans]
        row |= {"seconds": round(windows.seconds, 3), "fps": round(windows.fps, 3)}
        row["windows"] = [self.window_row(*time, each) for time, each in zip(times, scores, strict=True)]
        row["segments"] = segments_of(row["windows"], windows.seconds)
        return row, scores

    def window_row(self, start: float, end: float, scores: Tensor) -> dict[str, Any]:
        """Return what is said of one window."""
        said = described(scores, self.predictor.classes, self.top)
        said.pop("scores", None)
        if said["score"] < self.min_score:
            said |= {"label": None, "name": "-"}
        return {"start": round(start, 3), "end": round(end, 3), **said}


def segments_of(windows: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Join neighboring windows of one class; borders lie halfway between the centers of windows that differ."""
    runs = [list(run) for _, run in groupby(windows, key=lambda window: window["name"])]
    centers = [[(w["start"] + w["end"]) / 2 for w in (run[0], run[-1])] for run in runs]
    borders = [0.0, *((a[1] + b[0]) / 2 for a, b in pairwise(centers)), seconds]
    return [
        {
            "start": round(start, 3),
            "end": round(end, 3),
            "label": run[0]["label"],
            "name": run[0]["name"],
            "score": round(sum(w["score"] for w in run) / len(run), 6),
        }
        for run, (start, end) in zip(runs, pairwise(borders), strict=True)
    ]
