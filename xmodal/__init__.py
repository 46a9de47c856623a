"""One frozen encoder, small trained parts, any modality."""

__version__ = "0.1.0"
