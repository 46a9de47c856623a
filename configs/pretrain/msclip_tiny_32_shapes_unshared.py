"""MS-CLIP-S (arXiv 2207.12661) at small size: nothing shared, for comparison at equal steps.

Recipe: ours. Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/msclip_tiny_32_shapes_unshared.py
Measured here: 95.0 % zero-shot of 64 classes, mean of seeds 0, 1, 2 (standard deviation 1.0); docs/pretraining.md.
"""

from mmengine.config import read_base

from xmodal.toys.shape_captions import CLASSES, TEMPLATES, shape_tokenizer
from xmodal.toys.shape_pool import CONTEXT, TOKENIZER
from xmodal.encoders.msclip import MSCLIP
from xmodal.pretraining import ContrastiveModel

with read_base():
    from .._base_.shape_captions import *

model = dict(
    type=ContrastiveModel,
    clip=dict(
        type=MSCLIP, share=(), depth=4, dim=96, num_heads=3, out_dim=96, vocab_size=TOKENIZER.vocab_size,
        context_length=CONTEXT, image_size=32, patch_size=8, stem_blocks=(1, 1, 1), lateral_layers=(1, 2, 3),
        branch_blocks=(0, 1, 1), logit_scale=2.66, norm_eps=1e-6,
    ),
    tokenizer=dict(type=shape_tokenizer),
    loss="unicl",
    classes=CLASSES,
    templates=TEMPLATES,
)  # fmt: skip
