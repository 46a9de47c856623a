"""Compare each vision transformer of the installed timm with its tower here, and write the page of what came of it.

Each architecture is cut to two blocks of a small width with the heads of the original; all weights are drawn anew, so
that every part counts. Tokens, feature and weights are compared at its own size and at another, non-square one.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import HybridEmbed
from timm.models.vision_transformer import LayerScale
from torch import Tensor, nn

from xmodal.encoders.files import unfilled
from xmodal.encoders.timm_parts import describe, stride_of
from xmodal.encoders.timm_weights import FAMILIES, MISSING, create, from_timm

TARGET = Path(__file__).parents[2] / "docs" / "encoders.md"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """What came of one architecture: the largest difference, or why it is refused."""

    name: str
    family: str
    difference: float = 0.0
    refused: str = ""

    @property
    def fits(self) -> bool:
        """Return whether it equals timm or is refused."""
        return bool(self.refused) or self.difference < TOLERANCE


def architectures() -> list[tuple[str, str]]:
    """Return (family, name) of all vision transformers of this timm."""
    families = [family for family in (*FAMILIES, *MISSING) if family in timm.list_modules()]
    return [(family, name) for family in families for name in timm.list_models(module=family)]


def redraw(model: nn.Module) -> nn.Module:
    """Draw every weight so that none can be left out without a difference."""
    scales = {id(m.gamma) for m in model.modules() if isinstance(m, LayerScale)}
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn_like(p)
            if name.endswith("freqs"):
                continue
            if p.ndim <= 1:
                p.copy_(0.1 * noise + float(name.endswith("weight") or "gamma" in name or id(p) in scales))
            else:
                p.copy_(noise * (0.3 if p.ndim == 3 else p[0].numel() ** -0.5))
        for name, statistic in model.named_buffers():
            if name.endswith("running_mean"):
                statistic.normal_(std=0.1)
            elif name.endswith("running_var"):
                statistic.uniform_(0.5, 1.5)
    return model.eval()


def small(name: str) -> Any:
    """Build two blocks of an architecture, with heads as wide as its own."""
    try:
        whole = unfilled(lambda: create(name, None, dict(depth=2)))
    except ValueError:  # blocks of several shapes
        describe(unfilled(lambda: create(name, None, {})), name)
        raise
    attn = getattr(whole.blocks[0], "attn", None)
    heads = getattr(attn, "num_heads", None)
    if heads is None:
        return create(name, None, dict(depth=2))
    if isinstance(getattr(whole, "patch_embed", None), HybridEmbed):  # its network fixes the width
        return create(name, None, dict(depth=2))
    width = whole.embed_dim // heads
    count = 2 if width > 32 else 4
    return create(name, None, dict(depth=2, num_heads=count, embed_dim=count * width))


@torch.no_grad()
def difference(theirs: Any, ours: Any, size: tuple[int, int]) -> float:
    """Largest difference of tokens and feature for one image of a size."""
    images = torch.randn(1, 3, *size)
    tokens = ours.norm(ours.forward_blocks(*ours.embed(images)))
    pairs: list[tuple[Tensor, Tensor]] = [(theirs(images), ours(images)), (theirs.forward_features(images), tokens)]
    return max(float((a - b).abs().max()) if a.shape == b.shape else float("inf") for a, b in pairs)


def outcome(family: str, name: str) -> Comparison:
    """Compare one architecture."""
    torch.manual_seed(0)
    try:
        theirs = redraw(small(name))
        ours = from_timm(theirs)
    except ValueError as error:
        return Comparison(name, family, refused=reason(str(error)))
    patch = stride_of(theirs)
    other: Any = copy.deepcopy(theirs)
    own = (ours.image_size,) * 2
    if hasattr(theirs, "patch_embed"):  # NaFlex models take any size
        other.set_input_size(img_size=(3 * patch, 5 * patch))
        own = theirs.patch_embed.img_size
    worst = max(difference(theirs, ours, own), difference(other, ours, (3 * patch, 5 * patch)))
    exported = same(ours.library_state(), theirs.state_dict())
    return Comparison(name, family, worst if exported else float("inf"))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Return whether two state dicts are equal."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def reason(message: str) -> str:
    """The part of an error that says why."""
    return message.partition("is not supported: ")[2].partition(". Supported are")[0] or message


def page(outcomes: Iterable[Comparison], further: Iterable[str] = ()) -> str:
    """The whole page: vision transformers of timm, and further lines."""
    found = list(outcomes)
    exact = [o for o in found if not o.refused]
    refused = [o for o in found if o.refused]
    lines = [
        "# Encoders",
        "",
        "Made by `python tools/encoders.py --write`. Towers come from timm (`timm_encoder`, `xmodal.adapt`), open_clip",
        "(`open_clip_encoder`), OpenAI's files (`openai_encoder`), Hugging Face folders on disk (`hub_folder_encoder`:",
        "CLIP, SigLIP, SigLIP2, ViT, DINOv2, DINOv3) and V-JEPA 2's files and folders (`vjepa2_encoder`).",
        "NaFlex towers take images of several sizes in one batch: `encoder.embed([image, image, ...])`.",
        "",
        "## Vision transformers of timm",
        "",
        f"Of {len(found)} vision transformers of timm {timm.__version__}, {len(exact)} are rebuilt and",
        f"{len(refused)} refused. Rebuilt means: tokens, feature and exported weights equal timm's within",
        f"{TOLERANCE:g}, two blocks with all weights drawn anew, at the architecture's own",
        "image size and at 3 x 5 patches. All sites of a block are there, so every adapter of docs/methods.md for",
        "vision transformers runs.",
        "",
        "| timm's module | rebuilt | refused | architectures rebuilt |",
        "|---|---|---|---|",
    ]
    for family in dict.fromkeys(o.family for o in found):
        names = [o.name for o in exact if o.family == family]
        count = sum(o.family == family for o in refused)
        lines.append(f"| {family} | {len(names)} | {count} | {', '.join(names) or '-'} |")
    lines += ["", "| refused because | architectures |", "|---|---|"]
    for why in dict.fromkeys(o.refused for o in refused):
        lines.append(f"| {why.replace('|', '/')} | {', '.join(o.name for o in refused if o.refused == why)} |")
    return "\n".join([*lines, *further, ""])
