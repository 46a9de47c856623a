"""Start a run from the trained weights of another run or of a release; a head for other classes is initialized."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from xmodal.engine.checkpoint import bare, check_encoder, evaluated_state, not_finite, own_keys, read
from xmodal.official.names import find_converter, read_official
from xmodal.registry import load_catalog
from xmodal.torch_files import read_torch

PLACES = ("checkpoints", "work_dirs")  # where a name is looked for, behind $XMODAL_CHECKPOINTS
ENDINGS = (".pth", ".pt", ".pyth")


def find_file(name: str, said: str = "load_from=") -> Path:
    """Return the file of a checkpoint: a path, a work directory, or the name of a released one that was fetched.

    Args:
        name: the path or the name.
        said: put in front of the name in messages.

    Raises:
        ValueError: nothing there, with the places that were looked at.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / file for file in ("best.pth", "last.pth") if (path / file).is_file()]
        if found:
            return found[0]
    folders = [Path(folder) for folder in filter(None, (os.environ.get("XMODAL_CHECKPOINTS"), *PLACES))]
    for folder in folders:
        near = [folder / f"{name}{ending}" for ending in ENDINGS] + [folder / name / "best.pth"]
        for file in near:
            if file.is_file():
                return file
    looked = ", ".join(str(folder) for folder in folders)
    raise ValueError(
        f"no checkpoint at {said}{name!r}, nor {name}.pth in {looked}: a released file keeps its layout, put it "
        "there (or set XMODAL_CHECKPOINTS)"
    )


def read_start(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of a checkpoint and its facts; a released file's are renamed, its facts are not known.

    Raises:
        ValueError: neither a checkpoint of ours nor of a method that is known.
    """
    content = read_torch(path, "a checkpoint")
    if isinstance(content, dict) and isinstance(content.get("meta"), dict) and "format" in content["meta"]:
        checkpoint = read(path)
        return evaluated_state(checkpoint), checkpoint["meta"]
    load_catalog()
    official = read_official(path)
    return find_converter(official, None).to_ours(official), {}


def load_start(model: nn.Module, name: str, classes: Sequence[str] | None = None, new_head: bool = False) -> None:
    """Put trained weights into a model that is to be trained on.

    A head for another number of classes, or with `new_head`, keeps its fresh weights; this is said.

    Args:
        model: with its frozen weights in place.
        name: see `find_file`.
        classes: names of the training set's.
        new_head: start the head anew in any case.

    Raises:
        ValueError: weights of another model or encoder, or that are not finite.
    """
    path, model = find_file(name), bare(model)
    state, meta = read_start(path)
    check_encoder(model, meta, str(path))
    if (bad := not_finite(state)) is not None:
        raise ValueError(f"{path}: {bad} is not finite: this run diverged before it was saved")
    current, keys = model.state_dict(), own_keys(model)
    heads = head_keys(model)
    fresh = {k for k in keys if k in heads and (new_head or k not in state or state[k].shape != current[k].shape)}
    if fresh - of_classes(model):
        fresh |= {k for k in keys if k in of_classes(model)}
    missing, unexpected = sorted(keys - state.keys() - fresh), sorted(state.keys() - keys - heads)
    other = [k for k in keys & state.keys() if state[k].shape != current[k].shape and k not in fresh]
    if missing or unexpected or other:
        odd = (missing or unexpected or other)[0]
        raise ValueError(
            f"load_from {path} does not fit this model: {len(missing)} trained tensors are missing, {len(unexpected)} "
            f"are unexpected, {len(other)} have another shape (such as {odd}): take the model of that run "
            "(its config.py), and change the head only"
        )
    model.load_state_dict({k: v for k, v in state.items() if k in keys - fresh}, strict=False)
    say(path, meta, state, classes, fresh, len(keys))


def head_keys(model: nn.Module) -> set[str]:
    """Return the keys whose shapes follow the classes: of the head, and of task tokens of point clouds."""
    return {k for k in model.state_dict() if {"head", "te_encoder"} & set(k.split("."))}


def of_classes(model: nn.Module) -> set[str]:
    """Return the keys of the layer that gives the logits: the head's last one with weights."""
    heads = [k for k in model.state_dict() if "head" in k.split(".")]
    last = heads[-1].rpartition(".")[0] if heads else ""
    return {k for k in heads if k.rpartition(".")[0] == last}


def say(
    path: Path,
    meta: dict[str, Any],
    state: dict[str, Tensor],
    classes: Sequence[str] | None,
    fresh: set[str],
    total: int,
) -> None:
    """Log which weights were loaded and which are initialized."""
    of = f" of step {meta['step']}" if meta.get("step") else ""
    print_log(f"weights{of} from {path}: {total - len(fresh)} of {total} trained tensors", logger="current")
    old = meta.get("classes")
    if fresh:
        had = f", for {len(old)} classes," if old else ""
        print_log(
            f"new head: {', '.join(sorted(fresh))} start from fresh weights; those of the checkpoint{had} are left out",
            logger="current",
        )
    elif old and classes and list(map(str, classes)) != list(old):
        print_log(
            f"the checkpoint's head was trained for other classes ({', '.join(old[:3])}, ...) than these "
            f"({', '.join(map(str, classes[:3]))}, ...) and is kept, as their number is equal: --new-head starts anew",
            logger="current",
        )
