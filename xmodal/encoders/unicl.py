"""UniCL's two towers: a Swin and a causal text transformer.

Paper: UniCL (arXiv 2204.03610); Florence (2111.11432) trains the same objective.
"""

from collections.abc import Sequence

import torch

from xmodal.encoders.clip import CLIP
from xmodal.encoders.swin import SwinEncoder
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import Tokenizer
from xmodal.registry import ENCODERS, method


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
