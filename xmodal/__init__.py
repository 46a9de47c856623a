"""One frozen encoder, small trained parts, any modality."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`xmodal.adapt`, imported when first asked for."""
    if name == "adapt":
        from xmodal.adapted import adapt

        return adapt
    raise AttributeError(f"module 'xmodal' has no attribute {name!r}")
