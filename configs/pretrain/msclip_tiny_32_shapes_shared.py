"""MS-CLIP-S (arXiv 2207.12661) at small size: attention and MLP shared between image and text, or nothing.

Recipe: ours. Data: drawn when the run starts.
Command: python tools/train.py configs/pretrain/msclip_tiny_32_shapes_shared.py
Variants: --cfg-options variant=unshared
Measured here: 96.1 % zero-shot of 64 classes, mean of seeds 0, 1, 2 (standard deviation 0.3); unshared
    95.0 % (1.0); docs/pretraining.md.
"""

from mmengine.config import read_base

from xmodal.encoders.msclip import MSCLIP
from xmodal.toys.shape_captions import shape_tokenizer
from xmodal.toys.shape_pool import CONTEXT, TOKENIZER

with read_base():
    from .._base_.shape_captions import *

model.clip = dict(
    type=MSCLIP, depth=4, dim=96, num_heads=3, out_dim=96, vocab_size=TOKENIZER.vocab_size, context_length=CONTEXT,
    image_size=32, patch_size=8, stem_blocks=(1, 1, 1), lateral_layers=(1, 2, 3), branch_blocks=(0, 1, 1),
    logit_scale=2.66, norm_eps=1e-6, share=("attn", "mlp"),
)  # fmt: skip
model.tokenizer = dict(type=shape_tokenizer)
variants = dict(unshared=dict(model=dict(clip=dict(share=()))))
