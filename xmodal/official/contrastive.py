"""Names in released UniCL and MS-CLIP checkpoints, and those of a `ContrastiveModel` over `unicl` or `MSCLIP`.

Papers: UniCL (arXiv 2204.03610), MS-CLIP (2207.12661).
"""

from torch import Tensor

from xmodal.encoders.keys import BLOCK, TEXT, VISUAL
from xmodal.official.names import Converter, Pairs, register_converter


def from_clip(name: str, value: Tensor) -> Tensor:
    """Bring a tensor of a CLIP tower into our shape: projections transposed, tokens and positions with a batch axis."""
    if name in ("clip.visual.proj.weight", "clip.text.proj.weight"):
        return value.t().contiguous()  # (D_out, D)
    shapes = {"clip.visual.cls_token": (1, 1, -1), "clip.visual.pos_embed": (1, *value.shape)}
    return value.reshape(shapes[name]) if name in shapes else value


def to_clip(name: str, value: Tensor) -> Tensor:
    """Undo `from_clip`."""
    if name == "clip.visual.cls_token":
        return value.flatten()
    return value.squeeze(0) if name == "clip.visual.pos_embed" else from_clip(name, value)


def clip_tower(official: str, blocks: str, ours: str, table: dict[str, str], shift: str = "") -> Pairs:
    """Return the names of a CLIP tower: what stands before official names and blocks, and before ours."""
    pairs = [(f"{blocks}.{{i{shift}}}.{a}{{w}}", f"{ours}.blocks.{{i}}.{b}{{w}}") for a, b in BLOCK.items()]
    for a, b in table.items():
        open_end = "{x}" if a[-1] in "._" else ""
        pairs.append((f"{official}{a}{open_end}", f"{ours}.{b}{open_end}"))
    return pairs


SCALE = ("logit_scale", "clip.logit_scale")
WORDS = {k: v for k, v in TEXT.items() if k not in ("text_projection", "text_projection.")}
UNICL = register_converter(
    Converter(
        "unicl",
        [
            SCALE,
            ("image_projection", "clip.visual.proj.weight"),
            ("text_projection", "clip.text.proj.weight"),
            *clip_tower("text_encoder.", "text_encoder.resblocks", "clip.text", WORDS),
            # the official stages downsample at their end, ours at their start
            ("image_encoder.layers.{i}.downsample.{x}", "clip.visual.stages.{i+1}.downsample.{x}"),
            ("image_encoder.layers.{i}.{x}", "clip.visual.stages.{i}.{x}"),
            *((f"image_encoder.{part}.{{x}}", f"clip.visual.{part}.{{x}}") for part in ("patch_embed", "norm")),
        ],
        holder="model",
        values=(from_clip, to_clip),
        older=[
            pair
            for name in ("lang_encoder", "text")
            for pair in clip_tower(f"{name}.", f"{name}.resblocks", "clip.text", WORDS)
        ],
        ignored=r".*\.(relative_position_index|attn_mask|relative_coords_table)|(image_encoder\.)?head\..+",
        sign=r"image_encoder\.layers\.",
    )
)

TRUNK = "visual.transformer"
FIRST, STEM = f"{TRUNK}.resblocks.0", "clip.visual.patch_embed.stem"
STEM_NAMES = (
    (f"{FIRST}.conv1.{{x}}", f"{STEM}.first.0.{{x}}"),
    (f"{FIRST}.bn1.{{x}}", f"{STEM}.first.1.{{x}}"),
    (f"{FIRST}.resnet_stage.conv_{{i}}.conv1.{{x}}", f"{STEM}.stages.{{i}}.body.0.{{x}}"),
    (f"{FIRST}.resnet_stage.conv_{{i}}.bn1.{{x}}", f"{STEM}.stages.{{i}}.body.1.{{x}}"),
    (f"{FIRST}.resnet_stage.conv_{{i}}.downsample.{{x}}", f"{STEM}.stages.{{i}}.shortcut.{{x}}"),
    (f"{FIRST}.last_conv.{{x}}", f"{STEM}.last.{{x}}"),
)
BRANCH = {
    **{f"conv{i + 1}": f"body.{2 * i}.0" for i in range(3)},
    **{f"bn{i + 1}": f"body.{2 * i}.1" for i in range(3)},
    "residual_conv": "shortcut.0",
    "residual_bn": "shortcut.1",
}
LATERAL = {
    "top2bottom_dw_conv.conv": "down.0",
    "top2bottom_dw_conv.bn": "down.1",
    "top2bottom_pw_conv.conv": "widen",
    "bottom_dw_conv.conv": "local.0",
    "bottom_dw_conv.bn": "local.1",
    "ln_adapt": "norm",
}


def msclip(name: str, stem: bool) -> Converter:
    """Register the names of MS-CLIP-S; behind a convolutional stem, which is layer 0, official blocks count from 1."""
    branch = f"{TRUNK}.parallel_branch_v"
    return register_converter(
        Converter(
            name,
            [
                SCALE,
                *(STEM_NAMES if stem else ()),
                (f"{branch}.0.conv.{{x}}", "clip.visual.branch.first.0.{x}"),
                (f"{branch}.0.bn.{{x}}", "clip.visual.branch.first.1.{x}"),
                *(
                    (
                        f"{branch}.{{i+1}}.resnet_stage.conv_{{j}}.{a}.{{x}}",
                        f"clip.visual.branch.stages.{{i}}.{{j}}.{b}.{{x}}",
                    )
                    for a, b in BRANCH.items()
                ),
                *(
                    (f"{TRUNK}.parallel_lateral_adapter.{{i}}.{a}.{{x}}", f"clip.visual.lateral.{{i}}.{b}.{{x}}")
                    for a, b in LATERAL.items()
                ),
                *clip_tower("visual.", f"{TRUNK}.resblocks", "clip.visual", VISUAL, "+1" if stem else ""),
                *clip_tower("", "transformer.resblocks", "clip.text", {**WORDS, "text_projection": "proj.weight"}),
            ],
            values=(from_clip, to_clip),
            sign=r"visual\.transformer\." + (r"resblocks\.0\.last_conv\." if stem else "parallel_lateral_adapter"),
        )
    )


MSCLIP_RELEASED, MSCLIP_WITHOUT_STEM = msclip("msclip", True), msclip("msclip_without_stem", False)
