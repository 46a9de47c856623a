"""A small CLIP with random weights and a word tokenizer."""

import torch

from xmodal.encoders.clip import CLIP
from xmodal.encoders.text import TextTransformer
from xmodal.encoders.tokenizer import WordTokenizer
from xmodal.encoders.vit import VisionTransformer

WORDS = [
    "<pad>",
    "<start>",
    "<unk>",
    "a",
    "photo",
    "of",
    "the",
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "bird",
    "old",
    "house",
    "<end>",
]
NAMES = ["cat", "red dog", "old blue bird"]


def small_clip(dim=16, depth=3, width=24):
    """Towers of random weights, frozen; features of width `dim`."""
    visual = VisionTransformer(16, 8, width, depth, 2, act="quick_gelu", pre_norm=True, patch_bias=False, out_dim=dim)
    tokenizer = WordTokenizer(WORDS, 24)
    text = TextTransformer(tokenizer.vocab_size, 24, 20, 2, 2, dim)
    for p in (*visual.parameters(), *text.parameters()):
        if p.ndim >= 2:
            torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5)
    clip = CLIP(visual, text, tokenizer)
    return clip.requires_grad_(False).eval()
