"""Released UniCL and MS-CLIP checkpoints in, and back out, for `tools/convert.py`.

Papers: UniCL (arXiv 2204.03610), MS-CLIP (2207.12661). The config's model is a `ContrastiveModel` over `unicl` or
`MSCLIP`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xmodal.convert import Converter, register_converter
from xmodal.encoders.keys import put_under, to_clip_text_state, to_clip_visual_state, under
from xmodal.encoders.msclip_conv import BRANCH_PARTS, LATERAL_PARTS, from_msclip_state
from xmodal.encoders.unicl import from_unicl_state

State = dict[str, Tensor]


@dataclass(frozen=True)
class TowerConverter(Converter):
    """A converter by functions, for checkpoints whose tensors change shape or number.

    Args:
        reader: official state dict to that of a `CLIP`.
        writer: the inverse.
        sign: pattern that one key of such a checkpoint matches.
    """

    reader: Callable[[Mapping[str, Tensor]], State] = dict
    writer: Callable[[Mapping[str, Tensor]], State] = dict
    sign: str = ""

    def knows(self, state: Mapping[str, Any]) -> bool:
        """Whether a key bears the sign."""
        return any(re.match(self.sign, key) for key in state)

    def to_ours(self, state: Mapping[str, Tensor]) -> State:
        """Official state dict to that of a `ContrastiveModel`."""
        return put_under(self.reader(state), "clip.")

    def to_official(self, state: Mapping[str, Tensor]) -> State:
        """The state dict of a `ContrastiveModel` to the official one.

        Raises:
            ValueError: towers of another kind.
        """
        ours = under(state, "clip.")
        official = self.writer(ours) if "visual.proj.weight" in ours else {}
        if not self.knows(official):
            raise ValueError(f"these are no weights of {self.name}")
        return official


def to_unicl_state(state: Mapping[str, Tensor]) -> State:
    """Weights of a `unicl` under the names of its official checkpoints."""
    text = to_clip_text_state(under(state, "text."))
    official = {f"text_encoder.{k.removeprefix('transformer.')}": v for k, v in text.items() if k != "text_projection"}
    for key, value in under(state, "visual.").items():
        if key != "proj.weight":
            official["image_encoder." + re.sub(r"^stages\.(\d+)\.(downsample)?", official_stage, key)] = value
    official["image_projection"] = state["visual.proj.weight"].t().contiguous()
    return {**official, "text_projection": text["text_projection"], "logit_scale": state["logit_scale"]}


def official_stage(found: re.Match) -> str:
    """The official stages downsample at their end, ours at their start."""
    return f"layers.{int(found[1]) - bool(found[2])}.{found[2] or ''}"


def to_msclip_state(state: Mapping[str, Tensor]) -> State:
    """Weights of an `MSCLIP` under the names of its official checkpoints."""
    first = int("visual.patch_embed.stem.last.weight" in state)
    convolutions = ("patch_embed.stem.", "branch.", "lateral.")
    visual = under(state, "visual.")
    plain = {k: v for k, v in visual.items() if not k.startswith(convolutions)}
    shifted = {re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) + first}", k): v for k, v in plain.items()}
    official = put_under(to_clip_visual_state(shifted), "visual.")
    for key, value in visual.items():
        if key.startswith(convolutions):
            official["visual.transformer." + official_convolution(key)] = value
    return {**official, **to_clip_text_state(under(state, "text.")), "logit_scale": state["logit_scale"]}


def official_convolution(key: str) -> str:
    """The official name of a weight of stem, branch or lateral adapter, behind `visual.transformer.`."""
    for pattern, name in (
        (r"patch_embed\.stem\.first\.0\.(.+)", r"resblocks.0.conv1.\1"),
        (r"patch_embed\.stem\.first\.1\.(.+)", r"resblocks.0.bn1.\1"),
        (r"patch_embed\.stem\.stages\.(\d+)\.body\.0\.(.+)", r"resblocks.0.resnet_stage.conv_\1.conv1.\2"),
        (r"patch_embed\.stem\.stages\.(\d+)\.body\.1\.(.+)", r"resblocks.0.resnet_stage.conv_\1.bn1.\2"),
        (
            r"patch_embed\.stem\.stages\.(\d+)\.shortcut\.(\d)\.(.+)",
            r"resblocks.0.resnet_stage.conv_\1.downsample.\2.\3",
        ),
        (r"patch_embed\.stem\.last\.(.+)", r"resblocks.0.last_conv.\1"),
        (r"branch\.first\.0\.(.+)", r"parallel_branch_v.0.conv.\1"),
        (r"branch\.first\.1\.(.+)", r"parallel_branch_v.0.bn.\1"),
    ):
        if re.fullmatch(pattern, key):
            return re.sub(pattern, name, key)
    if found := re.fullmatch(r"branch\.stages\.(\d+)\.(\d+)\.(.+)", key):
        return f"parallel_branch_v.{int(found[1]) + 1}.resnet_stage.conv_{found[2]}.{back(found[3], BRANCH_PARTS)}"
    found = re.fullmatch(r"lateral\.(\d+)\.(.+)", key)
    assert found, key
    return f"parallel_lateral_adapter.{found[1]}.{back(found[2], LATERAL_PARTS)}"


def back(key: str, table: Mapping[str, str]) -> str:
    """`key` with its beginning renamed from ours to the official one."""
    official, ours = next((o, n) for o, n in table.items() if key.startswith(n))
    return official + key[len(ours) :]


UNICL = register_converter(
    TowerConverter(
        "unicl", (), (), reader=from_unicl_state, writer=to_unicl_state, sign=r"(module\.)?image_encoder\.layers\."
    )
)
MSCLIP_RELEASED = register_converter(
    TowerConverter(
        "msclip",
        (),
        (),
        reader=from_msclip_state,
        writer=to_msclip_state,
        sign=r"visual\.transformer\.(parallel_lateral_adapter\.|resblocks\.0\.last_conv\.)",
    )
)
