"""Scenes of segmentation and detection with what the model finds in them, as parts of a report."""

import logging
from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import numpy as np
import torch

from pointcloud.predict import test_transforms
from xmodal import page
from xmodal.use.exhibits import colors_of, of_classes
from xmodal.use.loaded import load
from xmodal.use.runs import Run

log = logging.getLogger("xmodal.use")
SCENES = 3
MOST = 60_000  # points of a scene that is predicted for a page


def scenes(run: Run, dataset: Any, part: Callable[[Callable[[], str]], str]) -> str:
    """Return a few scenes with predictions; nothing for classifiers, whose answers are shown by themselves.

    Args:
        run: has a checkpoint.
        dataset: of its evaluation.
        part: makes an exhibit where there is room, see `Budget.part`.
    """
    first = dataset.load(0)
    if run.checkpoint is None or not {"segment", "boxes"} & first.keys():
        return ""
    try:
        model = load(run.checkpoint)
    except (ValueError, OSError) as error:
        log.warning("%s: its model is not loaded: %s", run.checkpoint, error)
        return ""
    parts = [part(partial(scene, model, dataset, i)) for i in range(min(SCENES, len(dataset)))]
    return page.section("Scenes of the evaluation", page.exhibits([p for p in parts if p], wide=True))


@torch.no_grad()
def scene(model: Any, dataset: Any, index: int) -> str:
    """Return one scene: what is known of it beside what was found."""
    raw = dataset.load(index)
    if len(raw["coord"]) > MOST:
        raise ValueError(f"{dataset.sample_id(index)} has {len(raw['coord']):,} points")
    network, names = model.model.network, model.classes or list(dataset.classes or ())
    cloud = raw if network.feat_dim else {k: v for k, v in raw.items() if k != "feat"}
    found = network.predict_cloud(cloud, test_transforms(model.config))
    name = f"<code>{escape(dataset.sample_id(index))}</code>"
    if "segment" in found:
        segment = np.asarray(found["segment"])
        views = {"as labeled": raw["segment"], "as predicted": segment}
        shown = [page.exhibit(page.cloud(raw["coord"], of_classes(v)), k, name) for k, v in views.items()]
        known = raw["segment"] >= 0
        right = 100 * float((segment == raw["segment"])[known].mean()) if known.any() else 0.0
        return "".join(shown).replace("as predicted", f"as predicted, {right:.0f} % of the points right")
    row, _ = network.show(found, names, None)
    boxes = [(box["corners"], f"{box['name']} {box['score']:.2f}") for box in row["boxes"][:20]]
    said = f"{len(row['boxes'])} boxes found, {len(raw['boxes'])} known"
    return page.exhibit(page.cloud(raw["coord"], colors_of(raw.get("feat")), boxes), said, name)
