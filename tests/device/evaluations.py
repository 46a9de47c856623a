"""Runs of few-shot and ELEVATER configs on a pretended device, made small: every method trains, selects and tests."""

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.data import Dataset

from pointcloud.uni3d import uni3d
from tests.device.runs import NAMES, PRECISIONS, Lifted, Step, quick_farthest
from tests.device.shadow import Pretended, autocast
from tests.xmodal.clips import small_clip
from xmodal.encoders.clip import CLIP
from xmodal.encoders.openclip_weights import open_clip_beside
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.encoders.tokenizer import WordTokenizer
from xmodal.evaluation import logistic
from xmodal.evaluation.bench import Bench, Source
from xmodal.evaluation.config import RECIPES, read_config
from xmodal.evaluation.elevater import Elevater, ElevaterRun, elevater_source
from xmodal.registry import build
from xmodal.toys.elevater_worlds import write_world
from xmodal.toys.shapes import vocabulary

EACH = 3  # samples a class in every split
SMALL = {"epochs": 2, "passes": 2, "draws": 2, "interval": 2, "start": (), "load": None, "sentences": None}


class Drawn(Dataset):
    """Samples of noise: images, clips or clouds of a few classes, as a few-shot source reads them."""

    def __init__(self, kind: str, size: int):
        self.kind, self.size, self.classes = kind, size, NAMES
        self.labels = [k for k in range(len(NAMES)) for _ in range(EACH)]
        self.ids = [str(i) for i in range(len(self.labels))]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Any) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        rng = np.random.default_rng(index)
        if self.kind == "cloud":
            sample = {"coord": rng.uniform(-0.5, 0.5, (96, 3)).astype(np.float32)}
            sample["feat"] = rng.random((96, 3), np.float32)
        else:
            shape = (3, self.size, self.size)
            shape = (1, 8, *shape) if self.kind == "clips" else shape
            sample = {self.kind: rng.integers(0, 256, shape, np.uint8)}
        sample = {k: torch.from_numpy(v) for k, v in sample.items()}
        return {**sample, "label": self.labels[index], "sample_id": self.ids[index]}


def tower(spec: Any) -> Any:
    """Build a small tower of the kind that a config names."""
    if spec.type is open_clip_beside:
        shape = dict(depth=2, dim=32, num_heads=2, num_groups=8, group_size=4, token_dim=16, out_dim=16)
        return text_beside(uni3d("tiny", "random", **shape))
    if spec.type is timm_encoder:
        return timm_encoder(spec.name, weights="random", image_size=32, arch=dict(depth=2))
    return small_clip()


def text_beside(visual: nn.Module) -> CLIP:
    """Put a small text tower beside a tower of clouds."""
    words = WordTokenizer(vocabulary(), 20)
    return CLIP(visual, TextTransformer(words.vocab_size, 20, 16, 2, 2, 16), words).eval()


def source_of(spec: Any, kind: str, size: int) -> Source:
    """Make a source of noise with the name and the templates that a config gives."""
    name = spec.get("name") or spec.get("domain")
    data = Drawn(kind, size)
    templates = spec.get("templates", ("a photo of a {}.",))
    return Source(name, data, val=data, test=data, templates=templates)


def shrunk(run: Any) -> Any:
    """Make a recipe short: two passes of small batches, a coarse search."""
    fields = {k: v for k, v in SMALL.items() if hasattr(run, k)}
    fields |= {"batch_size": min(run.batch_size, 2)} if hasattr(run, "batch_size") else {}
    if hasattr(run, "steps"):
        fields["steps"] = 3 if isinstance(run.steps, int) else (5, 3)
    if getattr(run, "average", None):
        fields["average"] = (1, 1)
    return replace(run, **fields)


class Steps:
    """Count waits and uploads between backward passes; `least` are those of a step with nothing beside it.

    Args:
        device: where the run is.
        backward: False leaves the passes out, as a pretended CUDA device must.
    """

    def __init__(self, device: Pretended, backward: bool):
        self.device, self.run_backward = device, backward
        self.real, self.marks = Tensor.backward, []

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Note the counts so far; run the backward pass."""
        self.marks.append((self.device.waits.copy(), self.device.uploads.copy()))
        if self.run_backward:
            self.real(loss, *args, **kwargs)

    @contextmanager
    def watched(self) -> Iterator["Steps"]:
        """Put the count in front of every backward pass."""
        with patch.object(Tensor, "backward", lambda loss, *args, **kwargs: self.backward(loss, *args, **kwargs)):
            yield self

    def least(self) -> Step:
        """Return waits and uploads of the step that has the fewest."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        steps = [Step(b[0] - a[0], b[1] - a[1], len(self.marks)) for a, b in pairs]
        return min(steps, key=lambda s: s.waits.total() + s.uploads.total(), default=Step(steps=len(self.marks)))


def runs_of(path: Path, folder: str) -> tuple[Callable[[], Bench], dict[str, Callable[[Bench], Any]]]:
    """Return what makes a config's bench, and its methods by name, each a run of the whole protocol."""
    if path.parent.name == "elevater":
        return elevater_runs(path, folder)
    cfg = read_config(path)
    kind = "clips" if "actions8" in path.stem else "cloud" if "uni3d" in path.stem else "image"
    options = {k: v for k, v in cfg.get("bench", {}).items() if k in ("second", "adapters", "views")}

    def bench() -> Bench:
        clip = tower(cfg.encoder)
        more = {**options, "views": 2}
        if "second" in more:
            more["second"] = tower(more["second"])
        sources = [source_of(s, kind, clip.visual.image_size) for s in cfg.sources]
        return Bench(clip, sources, batch_size=8, **more)

    protocol, methods = build(cfg.protocol, RECIPES), {}
    for name, recipe in cfg.methods.items():
        taken = inspect.signature(recipe.get("model", {}).get("type", len)).parameters
        recipe.get("model", {}).update({key: 2 for key in taken if key.startswith("depth")})  # of the small towers
        run = shrunk(build(recipe, RECIPES))

        def go(bench: Bench, run: Any = run) -> Any:
            data = [s.labeled() for s in bench.sources]
            return run(bench, protocol.plan(data[0], 2, 1, data[1:]))

        methods[name] = go
    return bench, methods


def elevater_runs(path: Path, folder: str) -> tuple[Callable[[], Bench], dict[str, Callable[[Bench], Any]]]:
    """As `runs_of`, on one drawn data set."""
    cfg = read_config(path, ("encoder", "protocol", "methods"))
    write_world(folder, "drawn-colors", train=40, test=8)
    options = {"kadaptation": {"terms": 8}}

    def bench() -> Bench:
        clip = small_clip()
        return Bench(clip, [elevater_source(folder, "drawn-colors", clip.visual.image_size)], batch_size=8)

    def go(name: str) -> Callable[[Bench], Any]:
        more = options.get(name, {})
        settings = Elevater(epochs=2, extra_epochs=1, batch_size=4, rate=(1e-3, 1e-4), adapter_options=more)

        def run(bench: Bench) -> Any:
            return ElevaterRun(name, settings)(bench, settings.plan(bench.sources[0].labeled(), 2, 0))

        return run

    return bench, {name: go(name) for name in cfg.methods}


def sent(bench: Bench, device: Pretended) -> Bench:
    """Put a bench's towers on the device."""
    for module in (bench.clip, *bench.models.values()):
        device.move(module)
    bench.device = str(device.device)
    return bench


@contextmanager
def overwriting() -> Iterator[None]:
    """Let `Module.to` replace weights instead of their data, which a pretended tensor cannot."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def survey_evaluation(path: Path, precisions: Any = PRECISIONS[1:], only: Sequence[str] = ()) -> dict[str, Step]:
    """Run every method of a config in float32 and in each precision; returns waits and uploads of a step by method."""
    found: dict[str, Step] = {}
    short = patch.object(logistic, "fit_logistic", partial(logistic.fit_logistic, max_iter=2))  # which runs on the host
    with tempfile.TemporaryDirectory() as folder, overwriting(), quick_farthest(), short:
        make, methods = runs_of(path, folder)
        for name, run in ((k, v) for k, v in methods.items() if not only or k in only):
            for dtype in precisions:
                with _disable_current_modes():
                    bench = make()
                device = Pretended("cuda:0", values=True)
                no_cudnn = torch.backends.cudnn.flags(enabled=False)
                with device, no_cudnn, autocast(dtype), Steps(device, backward=False).watched():
                    run(sent(bench, device))
            bench, device = make(), Pretended("meta", values=True)
            with Lifted(), device, Steps(device, backward=True).watched() as steps:
                run(sent(bench, device))
            found[name] = steps.least()
    return found
