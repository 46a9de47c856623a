"""Put trained weights back into a model of the library that it came from: timm or open_clip."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.keys import to_clip_visual_state
from xmodal.structures import Encoder


def filled(given: Any, tower: Encoder, head: nn.Module) -> nn.Module:
    """Return a copy of a timm or open_clip model with the weights of a plain tower and of a head.

    Args:
        given: the model that the tower was made of; it is not changed.
        tower: without adapters.
        head: a linear head, the given model's own, or an identity.

    Returns:
        A model of the given class. An open_clip tower has no place for a classifier: with a linear head it comes as
        `nn.Sequential(tower, head)`.

    Raises:
        ValueError: weights that do not fit.
    """
    model = copy.deepcopy(given).eval()
    if type(given).__module__.startswith("timm"):
        return fill_timm(model, tower, head)
    visual = getattr(model, "visual", model)
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:  # open_clip around a tower of timm, whose head is [timm's classifier, open_clip's projection]
        own = head if isinstance(head, nn.Sequential) and len(head) == 2 else None
        fill_timm(trunk, tower, nn.Identity() if own is None else own[0])
        if own is not None:
            visual.head.load_state_dict(own[1].state_dict())
            return model
        visual.head = nn.Identity()
    else:
        plain = tower.state_dict()
        state = to_clip_visual_state(plain) if "pos_embed" in plain else tower.library_state()
        load(visual, state, ())
    return model if isinstance(head, nn.Identity) else nn.Sequential(visual, copy.deepcopy(head))


def fill_timm(model: Any, tower: Encoder, head: nn.Module) -> nn.Module:
    """Load a timm model in place, its classifier replaced where the head has another number of outputs."""
    outputs = getattr(head, "out_features", 0)
    if outputs != getattr(model, "num_classes", 0):
        like = next(model.parameters())
        model.reset_classifier(outputs)
        model.to(like)
    load(model, tower.library_state(), tuple(head.state_dict()))
    classifier = model.get_classifier()
    with torch.no_grad():
        for name, value in head.state_dict().items():
            own = classifier.get_parameter(name)
            own.copy_(value.reshape(own.shape))
    return model.eval()


def load(model: nn.Module, state: dict[str, Tensor], free: tuple[str, ...]) -> None:
    """Load a state dict of which only a classifier's keys, that end with one of `free`, may be missing.

    Raises:
        ValueError: other keys are missing or left over.
    """
    missing, unexpected = model.load_state_dict(state, strict=False)
    lost = [key for key in missing if not key.endswith(free or ("\0",))]
    if lost or unexpected:
        raise ValueError(
            f"{type(model).__name__} cannot take the merged weights: missing {lost[:3]}, left {unexpected[:3]}"
        )
