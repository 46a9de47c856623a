"""Compare each CNN and Swin of the installed timm with its `ConvNet`, or say why it is refused.

A stage is cut to two blocks in a row, all weights and statistics are drawn anew; the last map, the feature and the
exported weights are compared.
"""

import copy
import itertools
from collections.abc import Iterable
from typing import Any
from unittest import mock

import timm
import torch
from torch import nn

from tools.benches.encoders import TOLERANCE, Comparison, reason, redraw, same
from xmodal.encoders import convblocks
from xmodal.encoders.convblocks import KINDS
from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.files import unfilled
from xmodal.encoders.timm_weights import FAMILIES, MISSING

SIZE = 96  # of images, where the model takes any


def stage_architectures() -> list[tuple[str, str]]:
    """Return (family, name) of all models of this timm that are no vision transformers."""
    others = [family for family in timm.list_modules() if family not in (*FAMILIES, *MISSING)]
    return [(family, name) for family in sorted(others) for name in timm.list_models(module=family)]


def prune(model: nn.Module) -> nn.Module:
    """Leave two blocks of a kind in a row, where the channels allow it."""
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (_, before), (name, block) in list(itertools.pairwise(children))[1:]:
            shapes = [[p.shape for p in m.parameters()] for m in (before, block)]
            if type(block) in KINDS and type(before) is type(block) and shapes[0] == shapes[1]:
                del parent._modules[name]
    return model


def small(name: str) -> Any:
    """Build a short model with memory.

    Raises:
        ValueError: a model that is refused, before memory is taken.
    """
    model: Any = unfilled(lambda: timm.create_model(name, num_classes=0))
    config = model.pretrained_cfg
    ConvNet(copy.deepcopy(model), 224, config["mean"], config["std"], name)
    if any(isinstance(m, nn.Module) and hasattr(m, "init_non_persistent_buffers") for m in model.modules()):
        return prune(timm.create_model(name, num_classes=0))
    return prune(model).to_empty(device="cpu")


def stage_outcome(family: str, name: str) -> Comparison:
    """Compare one architecture."""
    torch.manual_seed(0)
    try:
        theirs = redraw(small(name))
    except (ValueError, AttributeError, TypeError, NotImplementedError, RuntimeError) as error:
        return Comparison(name, family, refused=reason(str(error)))
    theirs = theirs.double()
    with mock.patch.object(convblocks, "covered", return_value=1.0):  # a short model has other shares
        ours = ConvNet(copy.deepcopy(theirs), 224, name=name).eval()
    size = theirs.pretrained_cfg["input_size"][-1] if hasattr(theirs, "set_input_size") else SIZE
    images = torch.randn(1, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        maps = theirs.forward_features(images)
        pairs = [(theirs(images), ours(images)), (maps, ours.forward_blocks(*ours.embed(images)))]
        worst = max(float((a - b).abs().max() / a.abs().max().clamp(min=1)) for a, b in pairs)
    exported = same(ours.library_state(), theirs.state_dict())
    return Comparison(name, family, worst if exported else float("inf"))


def stage_section(outcomes: Iterable[Comparison]) -> list[str]:
    """The part of the page on CNNs and Swins."""
    found = list(outcomes)
    exact = [o for o in found if not o.refused]
    lines = [
        "",
        "## CNNs and Swins of timm",
        "",
        f"Of {len(found)} other architectures of timm {timm.__version__}, {len(exact)} are taken (`convnet`,",
        "`xmodal.adapt`): stages cut to two blocks in a row, all weights and statistics drawn anew, in float64; last",
        f"map, feature and exported weights equal timm's within {TOLERANCE:g} of the largest value. A model of which",
        "less than half of the weights have sites is refused.",
        "",
        "| timm's module | taken | refused | architectures taken |",
        "|---|---|---|---|",
    ]
    for family in dict.fromkeys(o.family for o in exact):
        names = [o.name for o in exact if o.family == family]
        count = sum(o.family == family and bool(o.refused) for o in found)
        lines.append(f"| {family} | {len(names)} | {count} | {', '.join(names)} |")
    lines += ["", "| refused because | timm's modules |", "|---|---|"]
    why = {o: o.refused.partition(": AttentionPool2d")[0] for o in found if o.refused}
    for said in dict.fromkeys(why.values()):
        members = [o for o in why if why[o] == said]
        families = dict.fromkeys(o.family for o in members)
        counts = ", ".join(f"{f} ({sum(o.family == f for o in members)})" for f in families)
        lines.append(f"| {said.replace('|', '/')} | {counts} |")
    return lines
