"""Read and write the folders of the package peft: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from xmodal.adapters.lora import LoRA
from xmodal.adapters.peft import DEFAULTS, LowRankUpdate
from xmodal.atomic import replacing, write_text
from xmodal.torch_files import read_safetensors, read_torch

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
# of no meaning for the outputs, whatever they hold
SILENT = {
    "alora_invocation_tokens", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "loftq_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "revision", "task_type", "runtime_config",
}  # fmt: skip
Slots = dict[str, tuple[Tensor, tuple[int, ...]]]  # peft's key -> our tensor and peft's shape


def read_peft(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a folder of peft: what its config says about LoRA, and its tensors without the prefix.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: another kind of adapter, a setting that changes the outputs and is not known, a damaged file.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"no {CONFIG} in {folder}")
    try:
        config = dict(json.loads((folder / CONFIG).read_text()))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is no JSON object ({error})") from error
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG}: peft_type {config.get('peft_type')!r} is not read, only LORA (with DoRA)")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start != "gaussian":
        raise ValueError(f"{folder / CONFIG}: init_lora_weights {start!r} changes the base weights: convert it in peft")
    strange = {k: v for k, v in config.items() if k not in DEFAULTS and k not in SILENT and v not in (None, False, {})}
    if strange:
        warnings.warn(f"{folder / CONFIG}: left aside {', '.join(sorted(strange))}", stacklevel=2)
    whole, old = folder / WEIGHTS, folder / "adapter_model.bin"
    tensors = read_safetensors(whole) if whole.exists() or not old.exists() else read_torch(old)
    return {k: config[k] for k in DEFAULTS if k in config}, {plain_key(k): v for k, v in tensors.items()}


def plain_key(key: str) -> str:
    """Return a key of a peft file without the prefix, in the newer spelling."""
    return key.removeprefix(PREFIX).replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def write_peft(adapted: Any, folder: str | Path) -> Path:
    """Write the adapter in use as a folder that peft loads.

    Args:
        adapted: an `Adapted` with `lora` or `peft` in use.
        folder: made where it is missing.

    Raises:
        ValueError: none is in use, or a method that peft does not have.
    """
    if adapted.in_use is None or adapted.methods[adapted.active]["method"] not in ("lora", "peft"):
        raise ValueError("peft's files hold lora and peft adapters: use one of those first")
    config = dict(adapted.methods[adapted.active]["arguments"].get("config", {}))
    tensors = {k: t.detach().cpu().reshape(s) for k, (t, s) in places(adapted, config).items()}
    if not config:
        more, config = converted(adapted)
        tensors |= more
    auto = {"base_model_class": "VisionTransformer", "parent_library": "timm.models.vision_transformer"}
    config = {**DEFAULTS, **config, "peft_type": "LORA", "task_type": None, "inference_mode": True}
    config |= {"base_model_name_or_path": None, "auto_mapping": auto, "fan_in_fan_out": False}
    with replacing(Path(folder) / WEIGHTS) as file:
        content = {PREFIX + k: v.contiguous() for k, v in tensors.items()}
        file.write(safetensors.torch.save(content, metadata={"format": "pt"}))
    write_text(Path(folder) / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    return Path(folder)


def places(adapted: Any, config: dict[str, Any]) -> Slots:
    """Return where each tensor of a peft file stands in the adapter in use, a `peft` adapter, and in its head."""
    slot = adapted.in_use
    found: Slots = {}
    names = {id(module): name for name, module in adapted.encoder.named_modules()}
    adapted_layers = set()
    for site, key in slot.sites:
        update, target = site[key], names[id(site)].removesuffix(".edits")
        if not isinstance(update, LowRankUpdate):
            continue
        target = "patch_embed.proj" if target == "patch_embed" else target
        adapted_layers.add(target)
        conv = (1, 1) * (update.a.ndim == 4)
        found[f"{target}.lora_A.weight"] = (update.a, tuple(update.a.shape))
        found[f"{target}.lora_B.weight"] = (update.b, (*update.b.shape, *conv))
        if update.bias is not None:
            found[f"{target}.lora_B.bias"] = (update.bias, tuple(update.bias.shape))
        if (m := update.magnitude) is not None:
            found[f"{target}.lora_magnitude_vector"] = (m, (1, len(m), 1, 1) if conv else (len(m),))
    for owner, name in slot.owners:
        path, tensor = names[id(owner)], getattr(owner, name)
        found[f"{path}.base_layer.{name}" if path in adapted_layers else f"{path}.{name}"] = (tensor, tensor.shape)
    saved = any("head".endswith(entry) for entry in config.get("modules_to_save") or ())
    for name, tensor in adapted.head.named_parameters():
        if saved or not config or (config.get("bias") == "all" and name == "bias"):
            found[f"head.{name}"] = (tensor, tensor.shape)
    return found


def converted(adapted: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and config of a `lora` adapter: separate updates of q, k and v become one of the fused layer."""
    tensors, scales = {}, {}
    names = {id(module): name for name, module in adapted.encoder.named_modules()}
    for site, key in adapted.in_use.sites:
        module, target = site[key], names[id(site)].removesuffix(".edits")
        assert isinstance(module, LoRA)
        parts = dict(module.parts.items())
        rows = sum(len(p.b) for p in parts.values()) if "whole" in parts else 3 * len(next(iter(parts.values())).b)
        rank = sum(len(p.a) for p in parts.values())
        b, column = torch.zeros(rows, rank), 0
        for part, low in parts.items():
            at = 0 if part == "whole" else "qkv".index(part) * len(low.b)
            b[at : at + len(low.b), column : column + len(low.a)] = low.b.detach().cpu()
            column += len(low.a)
        tensors[f"{target}.lora_A.weight"] = torch.cat([p.a.detach().cpu() for p in parts.values()])
        tensors[f"{target}.lora_B.weight"] = b
        scales[target] = (rank, next(iter(parts.values())).scale)
    ranks, alphas = {n: r for n, (r, _) in scales.items()}, {n: r * s for n, (r, s) in scales.items()}
    first = next(iter(scales))
    config = {"r": ranks[first], "lora_alpha": alphas[first], "target_modules": sorted(scales)}
    config |= {"rank_pattern": {n.replace(".", r"\."): r for n, r in ranks.items() if r != ranks[first]}}
    config |= {"alpha_pattern": {n.replace(".", r"\."): a for n, a in alphas.items() if a != alphas[first]}}
    return tensors, config | {"modules_to_save": ["head"] if list(adapted.head.parameters()) else None}


def fill(adapted: Any, config: dict[str, Any], tensors: dict[str, Tensor], source: str) -> None:
    """Load the tensors of a peft file into the adapter in use.

    Raises:
        ValueError: tensors that are missing, left over or of another shape.
    """
    here = places(adapted, config)
    missing, left = sorted(here.keys() - tensors.keys()), sorted(tensors.keys() - here.keys())
    odd = [k for k in here if k in tensors and here[k][0].numel() != tensors[k].numel()]
    for what, keys in (("missing", missing), ("left over", left), ("of another shape", odd)):
        if keys:
            raise ValueError(f"{source} does not fit; {what}: {', '.join(keys[:3])}{' ...' * (len(keys) > 3)}")
    for key, (tensor, _) in here.items():
        tensor.data.copy_(tensors[key].reshape(tensor.shape))
