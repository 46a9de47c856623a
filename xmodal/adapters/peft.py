"""LoRA and DoRA as the package peft configures them: any linear layer, the patch projection, biases, whole modules.

Papers: LoRA (arXiv 2106.09685), DoRA: Weight-Decomposed Low-Rank Adaptation (arXiv 2402.09353), rsLoRA (arXiv
2312.03732). `xmodal.peft_files` reads and writes peft's folders.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.encoders.sites import place
from xmodal.registry import ADAPTERS, method
from xmodal.structures import Encoder, Grid

DEFAULTS: dict[str, Any] = dict(
    r=8, lora_alpha=8, target_modules=None, lora_dropout=0.0, bias="none", use_dora=False, use_rslora=False,
    lora_bias=False, modules_to_save=None, exclude_modules=None, rank_pattern={}, alpha_pattern={},
    layers_to_transform=None, layers_pattern=None,
)  # fmt: skip


class LowRankUpdate(nn.Module):
    """W x + b -> (m / |V|) V x + b with V = W + scale B A (DoRA), or V x + b (LoRA), of a frozen layer.

    Args:
        layer: `nn.Linear`, or the `nn.Conv2d` of a patch projection; it is not registered here.
        rank: r.
        scale: of B A.
        dora: train the length m of each row of V; |V| counts as a constant in gradients.
        bias: train a bias behind B, scaled too.
        dropout: on the input of the update, in training.

    At start: the identity.
    Trains: all of it.
    """

    def __init__(self, layer: Any, rank: int, scale: float, dora: bool = False, bias: bool = False, dropout: float = 0):
        super().__init__()
        weight = layer.weight
        self.a = nn.Parameter(weight.new_empty(rank, *weight.shape[1:]))
        self.b = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[0])) if bias else None
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.magnitude = nn.Parameter(weight.detach().flatten(1).norm(dim=1)) if dora else None
        self.scale, self.dropout, self.layer = scale, nn.Dropout(dropout), (layer,)  # a tuple: the tower's own layer

    def through(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply a weight of the layer's kind to its input: (B, N, rows)."""
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, stride=self.layer[0].stride).flatten(2).transpose(1, 2)

    def forward(self, y: Tensor, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Change the layer's output y on its input x."""
        dropped = self.dropout(x)
        update = F.linear(self.through(dropped, self.a), self.b, self.bias) * self.scale
        if self.magnitude is None:
            return y + update
        own = self.layer[0]
        if self.training and self.dropout.p:
            plain = self.through(dropped, own.weight)
        else:
            plain = y if own.bias is None else y - own.bias
        gain = self.gain(own.weight)
        return y + (gain - 1) * plain + gain * update

    def changed(self, weight: Tensor) -> Tensor:
        """Return V = W + scale B A in the layer's shape."""
        return weight + self.scale * (self.b @ self.a.flatten(1)).view_as(weight)

    def gain(self, weight: Tensor) -> Tensor:
        """Return m / |V|, |V| as a constant."""
        assert self.magnitude is not None
        with torch.no_grad():
            length = self.changed(weight).flatten(1).norm(dim=1)
        return self.magnitude / length

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the layer's weight and bias with the update in them."""
        changed = self.changed(weight)
        if self.magnitude is not None:
            changed = changed * self.gain(weight).view(-1, *[1] * (weight.ndim - 1))
        if self.bias is not None:
            bias = self.scale * self.bias + (0 if bias is None else bias)
        return changed, bias


@method(
    ADAPTERS,
    "peft",
    slot="adapter",
    paper="DoRA: Weight-Decomposed Low-Rank Adaptation (arXiv 2402.09353); LoRA by peft's configs",
    params="sum over targets of r*(in + out), DoRA: + out",
    parity=("peft_files",),
    families=("vit",),
)
def peft(encoder: Encoder, config: Mapping[str, Any], name: str = "peft") -> list[nn.Module]:
    """Place what a LoRA config of peft describes in a vision transformer.

    Args:
        encoder: a tower with timm's names.
        config: keys of peft's `LoraConfig`: `r`, `lora_alpha`, `target_modules`, `use_dora`, `use_rslora`, `bias`,
            `modules_to_save`, `rank_pattern`, `alpha_pattern`, `exclude_modules`, `layers_to_transform`,
            `layers_pattern`, `lora_bias`, `lora_dropout`.
        name: the adapter's name at its sites.

    Raises:
        ValueError: an unknown key, no module that fits, or a target that is no layer of the tower.
    """
    if unknown := sorted(config.keys() - DEFAULTS.keys()):
        raise ValueError(f"peft config: {unknown[0]} is not known; known are {', '.join(DEFAULTS)}")
    config = DEFAULTS | dict(config)
    if config["use_dora"] and config["lora_bias"]:
        raise ValueError("peft config: use_dora and lora_bias exclude each other")
    layers = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and ".edits." not in n}
    chosen = targets_of(config, [*layers, "head"])
    if not chosen:
        raise ValueError(f"peft config: no module fits target_modules={config['target_modules']!r}")
    if "head" in chosen:
        raise ValueError("peft config: the head cannot be a target here: name it in modules_to_save")
    modules: list[nn.Module] = []
    for target, (rank, scale) in chosen.items():
        extras = dict(dora=config["use_dora"], bias=config["lora_bias"], dropout=config["lora_dropout"])
        update = LowRankUpdate(layers[target], rank, scale, **extras)
        modules.append(place(encoder, "patch_embed" if target == "patch_embed.proj" else target, name, update))
    for key, parameter in encoder.named_parameters():
        owner, _, last = key.rpartition(".")
        saved = any(owner.endswith(entry) for entry in config["modules_to_save"] or ())
        biased = last == "bias" and (config["bias"] == "all" or (config["bias"] == "lora_only" and owner in chosen))
        if ".edits." not in key and (saved or biased):
            parameter.requires_grad_(True)
    return modules


def targets_of(config: Mapping[str, Any], names: list[str]) -> dict[str, tuple[int, float]]:
    """Return rank and scale of each module that a config names, by peft's rules.

    Args:
        config: complete.
        names: of all layers, in order.
    """
    found = {}
    for name in names:
        kept = any(name.endswith(entry) for entry in config["modules_to_save"] or ())
        if kept or not listed(name, config["target_modules"]) or listed(name, config["exclude_modules"]):
            continue
        if (layers := config["layers_to_transform"]) is not None:
            patterns = config["layers_pattern"] or [r"[^.]*"]
            patterns = [patterns] if isinstance(patterns, str) else patterns
            lead = r".*?\." if not config["layers_pattern"] else r"(?:^|.*?\.)"
            numbers = [m for p in patterns if (m := re.match(rf"{lead}{p}\.(\d+)\.", name))]
            if not numbers or int(numbers[0].group(1)) not in ([layers] if isinstance(layers, int) else layers):
                continue
        rank = by_pattern(config["rank_pattern"], name, config["r"])
        alpha = by_pattern(config["alpha_pattern"], name, config["lora_alpha"])
        found[name] = (int(rank), alpha / (math.sqrt(rank) if config["use_rslora"] else rank))
    return found


def listed(name: str, entries: Any) -> bool:
    """Return whether a module is among names (whole, or behind a dot) or fits a regular expression."""
    if not entries:
        return False
    if isinstance(entries, str):
        return re.fullmatch(entries, name) is not None
    return any(name == entry or name.endswith(f".{entry}") for entry in entries)


def by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return the value of the first pattern that ends a module's name."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)
