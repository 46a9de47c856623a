"""Write a trained model as a graph that runs without xmodal: uint8 frames in, class probabilities out.

Adapters that can be folded into the weights are; the normalization of the pixels is part of the graph; the batch is
free, and the number of frames where the method allows. A file takes its name only after it was run again and compared
with the model on batches of three sizes.
"""

import copy
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.atomic import replacing
from xmodal.merge import merge_adapters
from xmodal.preprocessor import normalize
from xmodal.torch_files import first_line

FORMATS = (".pt2", ".onnx")
NOTES = "xmodal.json"  # name of the notes in a .pt2 file, and with a dot for the dash the key in an ONNX file
BATCHES = (1, 2, 5)
Run = Callable[[Tensor], Tensor]


class Deployed(nn.Module):
    """A trained model with its preprocessing.

    Args:
        model: has `encoder` and `answers`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any):
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.encoder = merge_adapters(self.model.encoder, partial=True)
        self.model.encoder.recompute = False
        self.register_buffer("mean", torch.tensor(model.encoder.pixel_mean))
        self.register_buffer("std", torch.tensor(model.encoder.pixel_std))

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (B, 3, S, S) or (B, T, 3, S, S), uint8 RGB, to probabilities (B, K)."""
        return self.model.answers(normalize(frames, self.mean, self.std))


@dataclass(frozen=True)
class Exported:
    """The file that an export wrote, and how it was checked.

    Args:
        path: the file.
        free: names of the axes of the input whose size is free.
        difference: largest absolute difference of a probability from the model's, over `BATCHES`.
        eager_ms: milliseconds of a batch of one in the model, median.
        graph_ms: the same of the file.
    """

    path: Path
    free: tuple[str, ...]
    difference: float
    eager_ms: float
    graph_ms: float


def export(
    model: Any,
    path: str | Path,
    num_frames: int | None = None,
    image_size: int | None = None,
    classes: Sequence[str] = (),
    notes: dict[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> Exported:
    """Write a model as a graph.

    Args:
        model: a model of images or clips, `xmodal.adapt`'s included.
        path: the file: `.pt2` (torch.export) or `.onnx`.
        num_frames: T of the clips; None for images.
        image_size: S; default: the encoder's.
        classes: names in the order of the probabilities.
        notes: more to be kept in the file.
        tolerance: largest difference allowed.

    Raises:
        ValueError: an unknown ending, a model that has no graph, a package that is missing, or a graph whose
            probabilities differ. Nothing is written then.
    """
    path, size = Path(path), image_size or model.encoder.image_size
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: a graph's file ends in {' or '.join(FORMATS)}")
    if not hasattr(model, "answers"):
        raise ValueError(f"{type(model).__name__} has no graph to export: models of images and clips have one")
    deployed = Deployed(model)
    program, free = traced(deployed, random_frames(2, num_frames, size))
    about = {
        "input": {"name": "frames", "type": "uint8", "colors": "RGB, 0 to 255", "axes": axes(num_frames),
                  "shape": [None, *shape(num_frames, size)], "free": list(free)},
        "output": {"name": "probabilities", "axes": ["batch", "class"]},
        "classes": list(classes), "encoder": model.encoder.name, **(notes or {}),
    }  # fmt: skip
    writer = write_onnx if path.suffix == ".onnx" else write_pt2
    with replacing(path) as file:
        run = writer(program, file, json.dumps(about))
        difference = compare(deployed, run, num_frames, size)
        if not difference <= tolerance:
            raise ValueError(f"{path}: the graph's probabilities differ by {difference:.1e}, allowed {tolerance:.0e}")
    one = random_frames(1, num_frames, size)
    return Exported(path, free, difference, milliseconds(deployed, one), milliseconds(run, one))


def plain_values(node: Any) -> Any:
    """Return a part of a config as JSON values; types by their names."""
    if isinstance(node, dict):
        return {k: plain_values(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [plain_values(v) for v in node]
    return node if isinstance(node, str | int | float | bool | None) else getattr(node, "__name__", str(node))


def shape(num_frames: int | None, size: int) -> tuple[int, ...]:
    """Return the shape of one sample."""
    return (3, size, size) if num_frames is None else (num_frames, 3, size, size)


def axes(num_frames: int | None) -> list[str]:
    """Return the names of the input's axes."""
    return ["batch", *["frame"] * (num_frames is not None), "channel", "row", "column"]


def random_frames(batch: int, num_frames: int | None, size: int) -> Tensor:
    """Return frames of noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, *shape(num_frames, size)), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def traced(deployed: Deployed, frames: Tensor) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    """Trace the graph with as many free axes as it allows; returns it and their names.

    Raises:
        ValueError: the batch cannot be free, or the model cannot be traced.
    """
    auto = torch.export.Dim.AUTO  # type: ignore[attr-defined]
    tries: list[dict[int, Any]] = [{0: auto, 1: auto}, {0: auto}] if frames.ndim == 5 else [{0: auto}]
    for free in tries:
        try:
            program = torch.export.export(deployed, (frames,), dynamic_shapes={"frames": free}, strict=False)
            run = program.module()
            for batch in BATCHES:
                run(frames[:1].expand(batch, *frames.shape[1:]))
        except Exception as error:  # torch raises many kinds
            reason = first_line(error)
            continue
        twice = frames.repeat(1, 2, 1, 1, 1) if frames.ndim == 5 else None
        return program, ("batch", "frame") if twice is not None and takes(run, twice) else ("batch",)
    raise ValueError(f"{type(deployed.model).__name__} has no graph with a free batch: {reason}")


def takes(run: Run, frames: Tensor) -> bool:
    """Return whether a graph runs on an input."""
    try:
        run(frames)
    except Exception:  # torch raises many kinds
        return False
    return True


def write_pt2(program: torch.export.ExportedProgram, file: Any, notes: str) -> Run:
    """Write a `.pt2` file with its notes; returns the graph as read back."""
    torch.export.save(program, file, extra_files={NOTES: notes})
    file.flush()
    return torch.export.load(file.name).module()


def write_onnx(program: torch.export.ExportedProgram, file: Any, notes: str) -> Run:
    """Write an ONNX file with its notes as metadata; returns a function that runs it with onnxruntime.

    Raises:
        ValueError: the packages are not installed.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX needs {', '.join(missing)}: pip install xmodal[onnx]")
    import onnx
    import onnxruntime

    graph = torch.onnx.export(
        program, input_names=["frames"], output_names=["probabilities"], dynamo=True, verbose=False
    )
    assert graph is not None
    proto = graph.model_proto
    onnx.helper.set_model_props(proto, {NOTES.replace(".", "_"): notes})
    file.write(proto.SerializeToString())
    file.flush()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    return lambda frames: torch.from_numpy(session.run(None, {"frames": frames.numpy()})[0])


@torch.no_grad()
def compare(deployed: nn.Module, run: Run, num_frames: int | None, size: int) -> float:
    """Return the largest absolute difference of a probability over batches of several sizes."""
    batches = [random_frames(batch, num_frames, size) for batch in BATCHES]
    return max(float((deployed(frames) - run(frames)).abs().max()) for frames in batches)


@torch.no_grad()
def milliseconds(run: Run, frames: Tensor, times: int = 5) -> float:
    """Return the median time of a call, the first one left out."""
    run(frames)
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run(frames)
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)
