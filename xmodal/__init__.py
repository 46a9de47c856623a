"""One frozen encoder, small trained parts, any modality."""

import importlib

__version__ = "0.1.0"
PLACES = {"load": "xmodal.use.loaded", "adapt": "xmodal.adapted", "from_pretrained": "xmodal.adapted"}


def __getattr__(name: str) -> object:
    """`xmodal.load`, `xmodal.adapt` and `xmodal.from_pretrained`, imported when first asked for."""
    if name in PLACES:
        return getattr(importlib.import_module(PLACES[name]), name)
    raise AttributeError(f"module 'xmodal' has no attribute {name!r}")
