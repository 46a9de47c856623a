"""Base class of all models around a frozen encoder: freezing, adapters, train mode and what is saved."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from xmodal.encoders.frozen import fingerprint, freeze, keep_frozen_in_eval, moving_keys
from xmodal.encoders.sites import M
from xmodal.registry import ADAPTERS, build


class FrozenTower(nn.Module):
    """Base class of models that hold a frozen `encoder`, as a submodule or somewhere inside one.

    A subclass calls `hold` with the encoder before it adds trained parts; whatever is created afterwards trains.
    """

    _base: frozenset[str] = frozenset()
    _fingerprint = ("none", "")

    def hold(self, encoder: Any, adapters: Iterable[Any] = (), freeze_encoder: bool = True) -> Any:
        """Freeze an encoder and place adapters in it.

        Args:
            encoder: the tower, with its weights loaded.
            adapters: configs of adapters, in order; each receives `encoder`.
            freeze_encoder: False leaves the encoder's weights trained.

        Returns:
            The encoder.
        """
        self._base = frozenset(encoder.state_dict())
        self._fingerprint = (encoder.name, fingerprint(encoder))
        if freeze_encoder:
            freeze(encoder)
        for cfg in adapters:
            build(cfg, ADAPTERS, encoder=encoder)
        return encoder

    def train(self: M, mode: bool = True) -> M:
        """Set the mode; frozen parts of the encoder stay in evaluation mode."""
        super().train(mode)
        if mode and isinstance(self.encoder, nn.Module):
            keep_frozen_in_eval(self.encoder)
        return self

    def init_weights(self) -> None:
        """Do nothing: mmengine's `Runner.train` calls this, and its version would re-initialize loaded weights."""

    def frozen_fingerprint(self) -> dict[str, str]:
        """Return the encoder's name and a hash of the weights it was built with."""
        return dict(zip(("encoder", "sha256"), self._fingerprint, strict=True))

    def saved_keys(self) -> set[str]:
        """Return the state-dict keys that a checkpoint must hold.

        These are all weights that were added to the encoder, the encoder's weights that train, and the buffers that
        move with them (BatchNorm statistics).
        """
        places = [name for name, module in self.named_modules() if module is self.encoder]
        base = {f"{place}.{key}" for place in places for key in self._base}
        return moving_keys(self) | (self.state_dict().keys() - base)
