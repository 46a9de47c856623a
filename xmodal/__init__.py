"""One frozen encoder, small trained parts, any modality."""

import importlib

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`xmodal.adapt` and `xmodal.from_pretrained`, imported when first asked for."""
    if name in ("adapt", "from_pretrained"):
        return getattr(importlib.import_module("xmodal.adapted"), name)
    raise AttributeError(f"module 'xmodal' has no attribute {name!r}")
