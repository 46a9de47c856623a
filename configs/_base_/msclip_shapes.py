"""MS-CLIP-S at small size on the captioned shape world: a leaf says what image and text share."""

from mmengine.config import read_base

from xmodal.encoders.msclip import MSCLIP
from xmodal.toys.shape_captions import shape_tokenizer
from xmodal.toys.shape_pool import CONTEXT, TOKENIZER

with read_base():
    from .shape_captions import *

model.clip = dict(
    type=MSCLIP, depth=4, dim=96, num_heads=3, out_dim=96, vocab_size=TOKENIZER.vocab_size, context_length=CONTEXT,
    image_size=32, patch_size=8, stem_blocks=(1, 1, 1), lateral_layers=(1, 2, 3), branch_blocks=(0, 1, 1),
    logit_scale=2.66, norm_eps=1e-6,
)  # fmt: skip
model.tokenizer = dict(type=shape_tokenizer)
