"""The tiny CLIP that ships with the project; configs/pretrain/tiny-clip_48_things.py is its recipe."""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from xmodal.encoders.clip import CLIP
from xmodal.encoders.files import load_exactly, read_state, seeded, unfilled
from xmodal.encoders.keys import State
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import WordTokenizer
from xmodal.encoders.vit import VisionTransformer
from xmodal.registry import ENCODERS


@ENCODERS.register_module(name="tiny_clip")
def tiny_clip(
    weights: str = "pretrained",
    image_size: int | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
    arch: dict | None = None,
) -> CLIP:
    """Both towers of the shipped tiny CLIP.

    Args:
        weights: `pretrained`, `random` for untrained towers of the same shape, or a file of towers of this shape, such
            as the towers.safetensors that a pretraining run leaves.
        image_size: pixels, when another resolution than 48 is wanted; positions are resized.
        drop_path: stochastic depth of the last block, in training only.
        seed: of random weights.
        arch: arguments of the image tower that differ, as `dict(positions=False, rotary=dict(kind="axial"))`; the
            shipped weights do not fit then.

    Returns:
        The CLIP in evaluation mode, with its word tokenizer.

    Raises:
        ValueError: another word for `weights`; a file that does not fit.
    """
    if weights not in ("pretrained", "random") and not Path(weights).is_file():
        raise ValueError(f"weights={weights!r}: the tiny CLIP has pretrained or random, and no such file is there")
    about = facts()
    vision = {**about["vision"], **(arch or {}), "drop_path": drop_path}
    vision["image_size"] = image_size or vision["image_size"]

    def build() -> CLIP:
        tokenizer = WordTokenizer(about["vocab"], about["text"]["context_length"])
        return CLIP(VisionTransformer(**vision), TextTransformer(**about["text"]), tokenizer)

    if weights == "random":
        vision["name"] = f"{about['name']}/random-{seed}"
        return seeded(seed, build).eval()
    if weights != "pretrained":
        vision["name"] = f"{about['name']}/{Path(weights).stem}"
        return load_exactly(unfilled(build), read_state(weights), str(weights))
    return load_exactly(unfilled(build), shipped_state(), "tiny_clip.safetensors")


@ENCODERS.register_module(name="tiny_clip_encoder")
def tiny_clip_encoder(
    weights: str = "pretrained",
    image_size: int | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
    arch: dict | None = None,
) -> VisionTransformer:
    """The image tower of the shipped tiny CLIP; arguments are those of `tiny_clip`."""
    tower = tiny_clip(weights, image_size, drop_path, seed, arch).visual
    assert isinstance(tower, VisionTransformer)
    return tower


def facts() -> dict[str, Any]:
    """Read the facts of the tiny CLIP from the package data: sizes, words, training and accuracy."""
    return json.loads(files("xmodal.assets").joinpath("tiny_clip.json").read_text())


def shipped_state() -> State:
    """The weights among the package data."""
    with as_file(files("xmodal.assets").joinpath("tiny_clip.safetensors")) as path:
        return read_state(path)
