"""Compare both towers of each config of the installed open_clip with those here.

Each tower is cut to two blocks, of the width of two heads where it is open_clip's own; all weights are drawn anew. The
features of images and texts and the exported weights are compared.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import open_clip
import timm
import torch
from open_clip.model import _build_text_tower
from torch import Tensor, nn

from tools.benches.encoders import TOLERANCE, reason, redraw, same
from xmodal.encoders.files import load_exactly
from xmodal.encoders.keys import from_clip_state, put_under, to_clip_state, to_clip_text_state, under
from xmodal.encoders.openclip_configs import config_of, text_of, visual_of
from xmodal.encoders.openclip_weights import build_visual, visual_state
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.timm_weights import FAMILIES

SHORT = {"convnext": dict(depths=(1, 1, 2, 1)), "swin_transformer": dict(depths=(2, 1, 2, 1))}
TIMM = timm.create_model


@dataclass(frozen=True)
class Pair:
    """What came of the two towers of one config: the largest differences, or why one is refused."""

    name: str
    image: float = 0.0
    text: float = 0.0
    image_refused: str = ""
    text_refused: str = ""

    @property
    def fits(self) -> bool:
        """Return whether each tower equals open_clip's or is refused."""
        return max(self.image, self.text) < TOLERANCE


def shortened(name: str, **options: Any) -> nn.Module:
    """Build a model of timm with two blocks in a row at most."""
    family = timm.model_entrypoint(name.split(".")[0]).__module__.rpartition(".")[2]
    return TIMM(name, **{**options, **(dict(depth=2) if family in FAMILIES else SHORT.get(family, {}))})


@contextlib.contextmanager
def short_towers() -> Iterator[None]:
    """Let open_clip take short towers from timm."""
    with mock.patch.object(timm, "create_model", shortened):
        yield


def small_config(name: str) -> dict[str, Any]:
    """Return a config with two blocks a tower and a small vocabulary."""
    config = config_of(name, None)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["quick_gelu"] = bool(config.get("quick_gelu"))
    if isinstance(vision.get("layers"), list):
        vision |= dict(layers=[1, 1, 1, 1], width=16, head_width=16, image_size=64)
    elif "timm_model_name" not in vision:
        vision |= dict(layers=2, width=2 * vision.get("head_width", 64))
    if "hf_model_name" not in text:
        text |= dict(layers=2, width=2 * text["width"] // text["heads"], heads=2, vocab_size=300)
    return config


def some_ids(text: dict[str, Any]) -> Tensor:
    """Draw token ids (3, L) with an end token and padding behind it."""
    length, vocab = text["context_length"], text["vocab_size"]
    end, pad = text["end_id"] if text["pool"] == "eos" else vocab - 1, text["pad_id"]
    ids = torch.randint(3, vocab - 1, (3, length))
    for row, stop in zip(ids, (length // 3, length // 2, length - 1), strict=True):
        row[stop], row[stop + 1 :] = end, pad
    return ids


def apart(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference in units of what is wanted, at least 1."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))


@torch.no_grad()
def pair(name: str) -> Pair:
    """Compare the towers of one config."""
    torch.manual_seed(0)
    image, said, image_refused, text_refused = 0.0, 0.0, "", ""
    config = small_config(name)
    with short_towers():
        try:
            image = image_difference(config, name)
        except ValueError as error:
            image_refused = reason(str(error))
        try:
            said = text_difference(config, name)
        except ValueError as error:
            text_refused = reason(str(error))
    return Pair(name, image, said, image_refused, text_refused)


def image_difference(config: dict[str, Any], name: str) -> float:
    """Difference of the image towers; infinity where the exported weights are not the same."""
    ours = build_visual(config, name, name)  # refuses before anything large is drawn
    theirs = redraw(visual_of(config, name))
    state = put_under(theirs.state_dict(), "visual.")
    load_exactly(ours, visual_state(state, ours), name)
    trunk = getattr(theirs, "trunk", None)
    images = torch.randn(1, 3, *getattr(getattr(trunk, "patch_embed", None), "img_size", (ours.image_size,) * 2))
    wanted = theirs(images)
    found = apart(ours(images), wanted[0] if isinstance(wanted, tuple) else wanted)
    back = to_clip_state(put_under(ours.state_dict(), "visual."), getattr(ours, "layout", ()))
    return found if same(back, state) else float("inf")


def text_difference(config: dict[str, Any], name: str) -> float:
    """Difference of the text towers; infinity where the exported weights are not the same."""
    spec = text_of(config, name)
    theirs = redraw(_build_text_tower(config["embed_dim"], config["text_cfg"], config["quick_gelu"]))
    ours = TextTransformer(**spec)
    state = {k: v for k, v in theirs.state_dict().items() if k != "attn_mask"}
    load_exactly(ours, under(from_clip_state(put_under(state, "text.")), "text."), name)
    ids = some_ids(spec)
    wanted = theirs(ids)
    found = apart(ours(ids), wanted[0] if isinstance(wanted, tuple) else wanted)
    return found if same(to_clip_text_state(ours.state_dict()), state) else float("inf")


def configs() -> list[str]:
    """Return the names of all configs of this open_clip."""
    return open_clip.list_models()


def section(pairs: list[Pair]) -> list[str]:
    """The part of the page on open_clip."""
    groups = {
        "image and text tower exact": [p for p in pairs if not p.image_refused and not p.text_refused],
        "image tower exact, text tower refused": [p for p in pairs if not p.image_refused and p.text_refused],
        "text tower exact, image tower refused": [p for p in pairs if p.image_refused and not p.text_refused],
        "both refused": [p for p in pairs if p.image_refused and p.text_refused],
    }
    lines = [
        "",
        "## open_clip",
        "",
        f"The {len(pairs)} configs of open_clip {open_clip.__version__}, two blocks a tower with all weights drawn",
        f"anew: features of images and texts and exported weights equal open_clip's within {TOLERANCE:g} of the",
        "largest value, or the tower is refused. CoCa's text decoder is left out.",
        "",
        "| towers | configs | names |",
        "|---|---|---|",
    ]
    lines += [f"| {what} | {len(own)} | {', '.join(p.name for p in own)} |" for what, own in groups.items() if own]
    lines += ["", "| refused because | configs |", "|---|---|"]
    for what in ("image_refused", "text_refused"):
        for why in dict.fromkeys(getattr(p, what) for p in pairs if getattr(p, what)):
            said = why.replace("|", "/")
            lines.append(f"| {said} | {', '.join(p.name for p in pairs if getattr(p, what) == why)} |")
    return lines
