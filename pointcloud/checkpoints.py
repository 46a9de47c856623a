"""Official EPCL checkpoints (trained parts; the frozen tower is loaded by itself) onto our names and back."""

import re

from torch import Tensor

from xmodal.convert import Converter, register_converter

EPCL_CLASSIFICATION = register_converter(
    Converter(
        name="epcl-classification",
        reads=(
            (r"encoder\.(.+)", r"tokenizer.encoder.\1"),
            (r"pos_embed\.(.+)", r"epcl.pos_embed.\1"),
            (r"te_encoder\.(.+)", r"epcl.te_encoder.\1"),
            (r"norm\.(.+)", r"norm.\1"),
            (r"proj2emb\.(.+)", r"proj2emb.\1"),
            (r"cls_head_finetune\.(.+)", r"head.\1"),
        ),
        writes=(
            (r"tokenizer\.encoder\.(.+)", r"encoder.\1"),
            (r"epcl\.pos_embed\.(.+)", r"pos_embed.\1"),
            (r"epcl\.te_encoder\.(.+)", r"te_encoder.\1"),
            (r"norm\.(.+)", r"norm.\1"),
            (r"proj2emb\.(.+)", r"proj2emb.\1"),
            (r"head\.(.+)", r"cls_head_finetune.\1"),
        ),
        holder="base_model",
    )
)
EPCL_DENSE = register_converter(
    Converter(
        name="epcl-dense",
        reads=(
            (r"tokenizer\.(.+)", r"tokenizer.\1"),
            (r"encoder\.(pos_embed|te_encoder)\.(.+)", r"epcl.\1.\2"),
            (r"upsamping\.mlp_convs\.0\.(.+)", r"upsampling.0.\1"),
            (r"upsamping\.mlp_bns\.0\.(.+)", r"upsampling.1.\1"),
        ),
        writes=(
            (r"tokenizer\.(.+)", r"tokenizer.\1"),
            (r"epcl\.(pos_embed|te_encoder)\.(.+)", r"encoder.\1.\2"),
            (r"upsampling\.0\.(.+)", r"upsamping.mlp_convs.0.\1"),
            (r"upsampling\.1\.(.+)", r"upsamping.mlp_bns.0.\1"),
        ),
    )
)
# Inside a stage of the U-Net: official name, our name; \d stands for an index that stays.
STAGE = (
    ("linear1", "linear1"),
    ("bn1", "bn1"),
    ("transformer2.0.channelMixMLPs01.0", "intra.score"),
    ("transformer2.0.channelMixMLPs01.2.bilinear", "intra.pair"),
    ("transformer2.0.linear_p.0", "intra.position.0"),
    ("transformer2.0.linear_p.1.1", "intra.position.1"),
    ("transformer2.0.linear_p.3", "intra.position.3"),
    ("transformer2.0.channelMixMLPs02.1", "intra.weight.0"),
    ("transformer2.0.channelMixMLPs02.2", "intra.weight.1"),
    ("transformer2.0.channelMixMLPs02.4", "intra.weight.3"),
    ("transformer2.0.channelMixMLPs02.5", "intra.weight.4"),
    ("transformer2.0.channelMixMLPs02.7", "intra.weight.6"),
    ("transformer2.0.channelMixMLPs03", "intra.value"),
    ("transformer2.1.linear.0", "inter.score"),
    ("transformer2.1.linear_x.0", "inter.value"),
    ("transformer2.1.linear_p.0", "inter.position.0"),
    ("transformer2.1.linear_p.1", "inter.position.1"),
    ("transformer2.1.linear_p.3", "inter.position.3"),
    ("bn2", "bn2"),
    ("linear3", "linear3"),
    ("bn3", "bn3"),
)
TAIL = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"


def unet_rules() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Rules for the U-Net of indoor segmentation: official to ours, and ours to official."""
    reads, writes = [], []
    for official, ours in STAGE:
        for part in ("enc", "dec"):
            reads.append((rf"{part}(\d+)\.([1-9]\d*)\.{re.escape(official)}{TAIL}", rf"{part}.\1.\2.{ours}.\3"))
            writes.append((rf"{part}\.(\d+)\.([1-9]\d*)\.{re.escape(ours)}{TAIL}", rf"{part}\1.\2.{official}.\3"))
    transitions = (("enc", "linear2", "linear"), ("dec", "linear1", "linear1"), ("dec", "linear2", "linear2"))
    shrinkers = (("enc", "channel_shrinker", "score"), ("dec", "channel_shrinker", "score"))
    for part, official, ours in transitions + shrinkers:
        reads.append((rf"{part}(\d+)\.0\.{official}\.(.+)", rf"{part}.\1.0.{ours}.\2"))
        writes.append((rf"{part}\.(\d+)\.0\.{ours}\.(.+)", rf"{part}\1.0.{official}.\2"))
    for name in ("cls", "input_layer", "output_layer"):
        reads.append((rf"{name}\.(.+)", rf"{name}.\1"))
        writes.append((rf"{name}\.(.+)", rf"{name}.\1"))
    reads.append((r"transformer\.(pos_embed|te_encoder)\.(.+)", r"epcl.\1.\2"))
    writes.append((r"epcl\.(pos_embed|te_encoder)\.(.+)", r"transformer.\1.\2"))
    return reads, writes


def flatten_conv(key: str, value: Tensor) -> Tensor:
    """A 1x1 convolution of the official network as our linear layer; `key` is ours."""
    return value.squeeze(-1) if ".intra.weight." in key and value.ndim == 3 else value


def unflatten_conv(key: str, value: Tensor) -> Tensor:
    """The inverse of `flatten_conv`; `key` is ours."""
    return value.unsqueeze(-1) if ".intra.weight." in key and value.ndim == 2 else value


EPCL_SEGMENTATION = register_converter(
    Converter("epcl-segmentation", *unet_rules(), holder="state_dict", values=(flatten_conv, unflatten_conv))
)
