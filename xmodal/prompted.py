"""A transfer model whose head runs the image tower itself, because its prompts depend on text or on the image."""

from typing import Any

from xmodal.model import EncoderModel
from xmodal.registry import MODELS


@MODELS.register_module(name="prompted")
class PromptedModel(EncoderModel):
    """`TransferModel` for heads with `encode(encoder, tokens, grid)`: MVLPT and DPT.

    Raises:
        ValueError: a head that does not run the tower.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not hasattr(self.head, "encode"):
            raise ValueError(f"{type(self.head).__name__} does not run the image tower: use TransferModel (`transfer`)")

    def features(self, **inputs: Any) -> Any:
        """Compute the head's features of a batch of normalized pixels."""
        return self.head.encode(self.encoder, *self.embed(**inputs))
