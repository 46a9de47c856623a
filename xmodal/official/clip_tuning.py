"""Few-shot methods inside CLIP's towers in and out of their official files: CLIP-LoRA, MaPLe, PromptSRC."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.official.names import Converter, check_fit, pattern_of, register_converter, rename_key
from xmodal.official.prompts import load_inert
from xmodal.registry import METHODS, did_you_mean

TOWERS = (("visual.", "clip.visual."), ("", "clip.text."))
BLOCK, LORA = "transformer.resblocks.{i}", "edits.clip_lora.parts"
CLIP_LORA = register_converter(
    Converter(
        "clip_lora",
        [
            pair
            for theirs, ours in TOWERS
            for a in "AB"
            for pair in (
                *(
                    (f"{theirs}{BLOCK}.attn.{p}_proj.w_lora_{a}", f"{ours}blocks.{{i}}.attn.qkv.{LORA}.{p}.{a.lower()}")
                    for p in "qkv"
                ),
                (f"{theirs}{BLOCK}.attn.proj.w_lora_{a}", f"{ours}blocks.{{i}}.attn.proj.{LORA}.whole.{a.lower()}"),
            )
        ],
        sign=r"(visual\.)?transformer\.resblocks\.\d+\.attn\.\w+\.w_lora_A",
    )
)
PARTS = (("ln_1", "norm1"), ("ln_2", "norm2"), ("attn.out_proj", "attn.proj"), ("mlp.c_fc", "mlp.fc1"),
         ("mlp.c_proj", "mlp.fc2"))  # fmt: skip
TOWER_NORMS = [
    *((f"{theirs}{BLOCK}.{a}.{{w}}", f"{ours}blocks.{{i}}.{b}.{{w}}") for theirs, ours in TOWERS for a, b in PARTS),
    ("visual.ln_pre.{w}", "clip.visual.norm_pre.{w}"),
    ("visual.ln_post.{w}", "clip.visual.norm.{w}"),
    ("ln_final.{w}", "clip.text.norm.{w}"),
]
MAPLE = Converter(
    "maple",
    [
        ("prompt_learner.ctx", "ctx"),
        ("prompt_learner.proj.{w}", "proj.{w}"),
        ("prompt_learner.compound_prompts_text.{i}", "text_prompts.{i}"),
        ("prompt_learner.compound_prompt_projections.{i}.{w}", "projections.{i}.{w}"),
    ],
    holder="state_dict",
)
PROMPTSRC = Converter(
    "promptsrc",
    [
        ("prompt_learner.ctx", "ctx"),
        ("image_encoder.VPT", "visual.0"),
        ("image_encoder.transformer.resblocks.{i}.VPT_shallow", "visual.{i}"),
        ("text_encoder.transformer.resblocks.{i+1}.VPT_shallow", "deep.{i}"),
    ],
    holder="state_dict",
)
TUNED = {"clip_lora": CLIP_LORA, "maple": MAPLE, "promptsrc": PROMPTSRC}
PLACE = re.compile(r"((?:visual\.)?transformer\.resblocks\.(\d+))\.attn\.(\w+)\.(w_lora_[AB])")


def places(model: Any) -> dict[str, str]:
    """Return our names of a tuned CLIP's trained weights by their official names.

    Raises:
        ValueError: a method whose release writes no such file.
    """
    names, back = converter_of(model), {}
    for ours in model.trained():
        back[rename_key(ours, [(b, a) for a, b in names.pairs])] = ours
    return back


def converter_of(model: Any) -> Converter:
    """Return the official names of a tuned CLIP's method."""
    name = next((m.name for m in METHODS.values() if m.obj is type(model)), type(model).__name__)
    if name not in TUNED:
        raise ValueError(f"no official file of {name!r} is known; {did_you_mean(name, TUNED)}")
    return TUNED[name]


def layers_of(keys: Mapping[str, Any]) -> dict[str, str]:
    """Return CLIP-LoRA's `layer_<n>` by the official block: adapted blocks of texts first, then of images."""
    found = {m[1]: (m[1].startswith("visual."), int(m[2])) for key in keys if (m := PLACE.fullmatch(key))}
    return {block: f"layer_{n}" for n, block in enumerate(sorted(found, key=lambda b: found[b]))}


def load_tuned(model: Any, path: str | Path) -> None:
    """Load the trained weights of a released file into a tuned CLIP of the same settings.

    Args:
        model: `CLIPLoRA`, `MaPLe` or `PromptSRC`.
        path: `lora_weights.pt`, or Dassl's `model.pth.tar-<epoch>`, whose copies of the frozen towers are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: weights that are missing, unknown or of another shape, named.
    """
    content, own = load_inert(path), places(model)
    if "weights" in content:  # CLIP-LoRA's
        theirs = {layer: block for block, layer in layers_of(own).items()}
        state = {
            f"{theirs.get(layer, layer)}.attn.{projection}.{name}": value
            for layer, parts in content["weights"].items()
            for projection, pair in parts.items()
            for name, value in pair.items()
        }
    else:
        rules = [pattern_of(theirs)[0] for theirs, _ in converter_of(model).pairs]
        state = {k.removeprefix("module."): v for k, v in content.get("state_dict", content).items()}
        state = {k: v for k, v in state.items() if any(rule.fullmatch(k) for rule in rules)}
    live = model.trained()
    check_fit(path, model, state, {key: live[ours] for key, ours in own.items()})
    with torch.no_grad():
        for key, ours in own.items():
            live[ours].copy_(state[key].float())
    model.train(model.training)  # kept text features are of the weights before


def save_tuned(model: Any, folder: str | Path, epoch: int = 1) -> Path:
    """Write the trained weights of a tuned CLIP in its release's layout; returns the file."""
    live = model.trained()
    state = {key: live[ours].detach().cpu().clone() for key, ours in places(model).items()}
    if converter_of(model) is CLIP_LORA:
        layers: dict[str, dict[str, dict[str, Tensor]]] = {}
        blocks = layers_of(state)
        for key, value in state.items():
            block, _, projection, name = PLACE.fullmatch(key).groups()  # type: ignore[union-attr]
            layers.setdefault(blocks[block], {}).setdefault(projection, {})[name] = value
        content: dict[str, Any] = {"weights": layers, "metadata": dict(model.about, position="all")}
        path = Path(folder) / "lora_weights.pt"
    else:
        content = {"state_dict": state, "epoch": epoch, "optimizer": None, "scheduler": None, "val_result": None}
        path = Path(folder) / f"model.pth.tar-{epoch}"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
