"""Trained weights on the real towers, against the numbers of the papers and of the released code."""

import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet

from xmodal.encoders.convnet import ConvNet, convnet
from xmodal.encoders.frozen import count, freeze
from xmodal.encoders.vit import VisionTransformer
from xmodal.registry import ADAPTERS, load_catalog
from xmodal.vqt import VisualQueries

load_catalog()
VIT_B16 = [
    ("lora", dict(rank=8), 294_912),
    ("lora", dict(rank=8, targets="qkv"), 294_912),
    ("bitfit", {}, 102_912),
    ("pfeiffer", dict(hidden=8), 156_768),
    ("pfeiffer", dict(hidden=96), 1_779_840),
    ("houlsby", dict(hidden=8), 313_536),
    ("adaptformer", dict(hidden=64), 1_189_632),
    ("adaptformer", dict(hidden=8), 156_768),
    ("vpt", dict(num_tokens=50, deep=False), 38_400),
    ("vpt", dict(num_tokens=10), 92_160),
    ("vpt", dict(num_tokens=50), 460_800),
    ("ssf", {}, 205_824),
    ("convpass", {}, 327_552),
    ("convpass", dict(sites=["attn"]), 163_776),
    ("fact", dict(rank=4), 8_448),
    ("fact", dict(rank=8), 21_504),
    ("fact", dict(rank=16), 61_440),
    ("fact", dict(rank=16, form="tk"), 30_976),
    ("fact", dict(rank=32, form="tk"), 86_528),
    ("kadaptation", dict(terms=32), 50_176),
]
CONVNETS = [
    ("resnet50", [1_302_784, 672_160, 356_848, 199_192, 120_364], [1, 2, 4, 8, 16]),
    ("resnetv2_50x1_bit", [356_848, 199_192], [4, 8]),
    ("convnext_tiny", [1_250_496, 796_848], [4, 8]),
    ("convnext_base", [3_721_728, 2_324_672], [4, 8]),
    ("swin_base_patch4_window7_224", [2_361_536, 1_487_584], [4, 8]),
    ("clip/RN50", [1_932_272, 987_928], [4, 8]),
]


@pytest.mark.parametrize(("name", "arguments", "number"), VIT_B16, ids=lambda v: str(v))
def test_vit_b16(name, arguments, number):
    with torch.device("meta"):
        encoder = freeze(VisionTransformer())
        assert count(encoder) == 85_798_656
        ADAPTERS.get(name)(encoder, **arguments)
    assert count(encoder, trained_only=True) == number


@pytest.mark.parametrize(
    ("queries", "number", "width"), [(1, 9_216, 9_984), (10, 92_160, 92_928), (20, 184_320, 185_088)]
)
def test_vqt(queries, number, width):
    with torch.device("meta"):
        reader = VisualQueries(VisionTransformer(), queries)
    assert (count(reader), reader.out_dim) == (number, width)


def clip_resnet50():
    return ConvNet(ModifiedResNet([3, 4, 6, 3], output_dim=1024, heads=32))


@pytest.mark.parametrize(("name", "numbers", "reductions"), CONVNETS, ids=lambda v: v if isinstance(v, str) else "")
def test_conv_adapter(name, numbers, reductions):
    with torch.device("meta"):
        encoder = freeze(clip_resnet50() if name == "clip/RN50" else convnet(name))
    for number, reduction in zip(numbers, reductions, strict=True):
        with torch.device("meta"):
            ADAPTERS.get("conv_adapter")(encoder, reduction, norms="none", name=f"g{reduction}")
        placed = sum(p.numel() for n, p in encoder.named_parameters() if f".g{reduction}." in n)
        assert placed == number


def test_conv_adapter_trains_norms_as_released():
    with torch.device("meta"):
        encoder = freeze(convnet("resnet50"))
        ADAPTERS.get("conv_adapter")(encoder, 4)
    assert count(encoder, trained_only=True) == 356_848 + 4_096
