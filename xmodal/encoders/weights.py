"""Every way to get an encoder with weights, in one place; importing this registers them all by name.

`timm_encoder`, `open_clip_encoder`, `openai_encoder` and `tiny_clip_encoder` build image towers, `open_clip_clip`,
`openai_clip` and `tiny_clip` both towers of a CLIP. timm and open_clip are imported when first asked for.
"""

from xmodal.encoders.frozen import fingerprint
from xmodal.encoders.keys import (
    base_state,
    from_clip_state,
    from_clip_text_state,
    from_clip_visual_state,
    from_timm_state,
    to_clip_state,
    to_clip_text_state,
    to_clip_visual_state,
    to_timm_state,
)
from xmodal.encoders.openai_weights import openai_clip, openai_encoder
from xmodal.encoders.openclip_weights import from_open_clip, open_clip_clip, open_clip_encoder
from xmodal.encoders.timm_weights import from_timm, timm_encoder
from xmodal.encoders.tiny import tiny_clip, tiny_clip_encoder

__all__ = [
    "base_state",
    "fingerprint",
    "from_clip_state",
    "from_clip_text_state",
    "from_clip_visual_state",
    "from_open_clip",
    "from_timm",
    "from_timm_state",
    "open_clip_clip",
    "open_clip_encoder",
    "openai_clip",
    "openai_encoder",
    "timm_encoder",
    "tiny_clip",
    "tiny_clip_encoder",
    "to_clip_state",
    "to_clip_text_state",
    "to_clip_visual_state",
    "to_timm_state",
]
