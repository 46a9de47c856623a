"""UniCL's two towers, a Swin and a causal text transformer, and the names of its released checkpoints.

Paper: UniCL (arXiv 2204.03610); Florence (2111.11432) trains the same objective.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xmodal.encoders.clip import CLIP
from xmodal.encoders.keys import from_clip_text_state, under
from xmodal.encoders.swin import SwinEncoder
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import Tokenizer
from xmodal.registry import ENCODERS, method

BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")
STAGE = re.compile(r"layers\.(\d+)\.(.+)")
TEXT_PREFIXES = ("text_encoder.", "lang_encoder.", "text.")


@method(
    ENCODERS,
    "unicl",
    slot="encoder+loss",
    paper="Unified Contrastive Learning in Image-Text-Label Space, arXiv 2204.03610",
    params="all: 91,340,667 (Swin-T), 150,695,609 (Swin-B)",
    parity=("unicl",),
    families=("swin",),
)
def unicl(
    image_size: int = 224,
    swin_dim: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    window_size: int = 7,
    patch_size: int = 4,
    out_dim: int = 512,
    text_width: int = 512,
    text_depth: int = 12,
    text_heads: int = 8,
    vocab_size: int = 49408,
    context_length: int = 77,
    mlp_ratio: float = 4.0,
    stem: str = "patch",
    merge: str = "patch",
    norm_eps: float = 1e-5,
    text_norm_eps: float = 1e-12,
    text_mlp_ratio: float = 4.0,
    drop_path: float = 0.0,
    tokenizer: Tokenizer | None = None,
    name: str = "unicl",
) -> CLIP:
    """Both towers of UniCL with fresh weights; defaults are its Swin-T (91,340,667 weights).

    Args:
        image_size: pixels of the square images.
        swin_dim: width of the first stage (128 for Swin-B).
        depths: blocks a stage ((2, 2, 18, 2) for Swin-B).
        num_heads: heads a stage ((4, 8, 16, 32) for Swin-B).
        window_size: edge of a window in tokens.
        patch_size: pixels of a patch.
        out_dim: D, width of the shared features.
        text_width: of the text tower.
        text_depth: blocks of the text tower.
        text_heads: of the text tower.
        vocab_size: entries of the token table.
        context_length: longest text.
        mlp_ratio: of the image tower.
        stem: see `SwinEncoder`; `conv` with merge `conv` is the Florence-style tower.
        merge: see `SwinEncoder`.
        norm_eps: of the image tower.
        text_norm_eps: of the text tower.
        text_mlp_ratio: of the text tower.
        drop_path: stochastic depth of the image tower.
        tokenizer: of the text tower.
        name: of the image tower.

    Returns:
        Towers whose logit scale starts at log scale 1.0, both projections truncated normal with std 0.02.
    """
    visual = SwinEncoder(
        image_size, patch_size, swin_dim, depths, num_heads, window_size, mlp_ratio, out_dim, stem, merge, norm_eps,
        drop_path=drop_path, name=name)  # fmt: skip
    text = TextTransformer(
        vocab_size, context_length, text_width, text_depth, text_heads, out_dim, text_mlp_ratio, norm_eps=text_norm_eps,
        name=f"{name}-text",
    )  # fmt: skip
    torch.nn.init.trunc_normal_(text.proj.weight, std=0.02)
    return CLIP(visual, text, tokenizer, logit_scale=1.0)


def from_unicl_key(key: str) -> str | None:
    """The house's name of a key of an official checkpoint; None for index and mask buffers.

    Raises:
        ValueError: a key that is no UniCL weight.
    """
    if key.endswith(BUFFERS):
        return None
    if key in ("logit_scale", "image_projection", "text_projection"):
        return {"image_projection": "visual.proj.weight", "text_projection": "text.proj.weight"}.get(key, key)
    for prefix in TEXT_PREFIXES:
        if key.startswith(prefix):
            inner = key[len(prefix) :].replace("resblocks.", "transformer.resblocks.", 1)
            return "text." + next(iter(from_clip_text_state({inner: torch.empty(0)})))
    if not key.startswith("image_encoder."):
        raise ValueError(f"{key!r} is no weight of UniCL (image_encoder., text_encoder., image_projection, ...)")
    return "visual." + from_swin_key(key.removeprefix("image_encoder."))


def from_swin_key(key: str) -> str:
    """The house's name of a key of the official Swin, whose stages downsample at their end and not at their start."""
    found = STAGE.fullmatch(key)
    if not found:
        return key
    stage, rest = int(found[1]), found[2]
    return f"stages.{stage + rest.startswith('downsample.')}.{rest}"


def from_unicl_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an official UniCL checkpoint under the names of the house's `CLIP`.

    Old checkpoints call the text tower `lang_encoder` or `text`; all three names are read. A class head is left out.
    """
    state = under(state, "module.") or dict(state)
    out = {}
    for key, value in state.items():
        if key.startswith(("image_encoder.head.", "head.")) or (ours := from_unicl_key(key)) is None:
            continue
        out[ours] = value.t().contiguous() if key.endswith("_projection") else value
    return out
