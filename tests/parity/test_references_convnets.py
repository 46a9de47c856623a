"""Methods on ConvNets and Swin against formulas in float64, at sizes and with options that no shipped case has."""

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_convnets as convnets
from tests.parity import _reference_swin as swin

STAGES = [
    dict(ins=12, width=8, outs=20, blocks=3, stride=2, gamma=4, kernel=3, size=9),
    dict(ins=24, width=12, outs=24, blocks=1, stride=1, gamma=1, kernel=5, size=6, plain=True),
    dict(ins=8, width=16, outs=32, blocks=2, stride=2, gamma=8, kernel=3, size=7, groups=4),
]
SCHEMES = ("conv_parallel", "conv_sequential", "residual_parallel", "residual_sequential")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sizes", STAGES, ids=lambda a: f"gamma {a['gamma']}")
def test_stages_of_resnets(sizes, scheme):
    a = dict(sizes, prefixes={"out": "layer2."}, schemes={"out": scheme})
    system = scheme if scheme.startswith("conv") else f"residual {scheme.removeprefix('residual_')}"
    about = dict(system=f"conv_adapter/{system}", seed=61, arch=a, state=convnets.stage_shapes(a, "layer2.", scheme),
                 inputs={"x": [2, a["ins"], a["size"], a["size"]]}, outputs={"out": ""},
                 loss="sum(out * fill_input('cotangent', shape, seed))")  # fmt: skip
    r.judge(about, convnets.stage)


def test_clip_resnet_with_its_pooling():
    a = dict(ins=8, width=8, outs=32, blocks=2, stride=2, gamma=4, kernel=3, clip=True, heads=4,
             backbone="CLIP ModifiedResNet stage", prefixes={"out": "layer4."},
             schemes={"out": "conv_parallel"})  # fmt: skip
    state = convnets.stage_shapes(a, "layer4.", "conv_parallel")
    about = dict(system="conv_adapter/conv_parallel", seed=62, arch=a, inputs={"x": [2, 8, 6, 6]}, state=state,
                 outputs={"out": ""}, loss="sum(out * fill_input('cotangent', shape, seed))")  # fmt: skip
    r.judge(about, convnets.stage)
    r.judge({**about, "state": state | convnets.pool_shapes(a, 3, 32, 6)}, convnets.stage)


@pytest.mark.parametrize("a", [
    dict(cin=[12, 20, 20], cout=20, cmid=8, stride=[2, 1, 1], gamma=4, groups=4, kernel=3),
    dict(cin=[16], cout=24, cmid=16, stride=[1], gamma=2, groups=8, kernel=5),
], ids=str)  # fmt: skip
def test_bit(a):
    a = dict(a, block=f"PreActBottleneck, StdConv2d (var eps 1e-10), GroupNorm({a['groups']})")
    about = dict(system="conv_adapter/conv_parallel BiT", seed=63, arch=a, state=convnets.bit_shapes(a),
                 inputs={"x": [2, a["cin"][0], 7, 7]}, outputs={"out": ""}, tolerance="abs 1e-4 + 5e-5*|value|",
                 loss="sum(out * fill_input('cotangent', shape, seed))")  # fmt: skip
    r.judge(about, convnets.bit)


@pytest.mark.parametrize("a", [
    dict(depths=[2, 1, 1, 1], dims=[8, 12, 8, 16], gamma=4, kernel=5, patch=4, layer_scale=True),
    dict(depths=[1, 1, 1, 2], dims=[6, 6, 12, 18], gamma=1, kernel=7, patch=4, layer_scale=False),
], ids=str)  # fmt: skip
def test_convnext(a):
    about = dict(system="conv_adapter/conv_parallel ConvNeXt", seed=64, arch=a, state=convnets.convnext_shapes(a),
                 inputs={"image": [2, 3, 8 * a["patch"], 8 * a["patch"]]}, outputs={"feature": ""},
                 loss="sum(feature * fill_input('cotangent', shape, seed))")  # fmt: skip
    r.judge(about, convnets.convnext)


SWINS = [
    (dict(dim=12, depths=[2, 1], num_heads=[3, 1], window_size=3, patch=2, ratio=2, img_size=12), (3, 3)),
    (dict(dim=8, depths=[2, 2], num_heads=[1, 4], window_size=4, patch=4, ratio=3, img_size=32), (4, 4)),
    (dict(dim=8, depths=[2, 2], num_heads=[2, 2], window_size=7, patch=4, ratio=4, img_size=16), (4, 2)),
    (dict(dim=8, depths=[2, 2], num_heads=[2, 1], window_size=5, patch=2, ratio=4, img_size=20), (5, 5)),
]


@pytest.mark.parametrize(("sizes", "reach"), SWINS, ids=["window 3", "window 4", "window 7", "window 5"])
def test_swin(sizes, reach):
    a = dict(sizes, gamma=4, kernel=7)
    image = {"image": [2, 3, a["img_size"], a["img_size"]]}
    about = dict(system="conv_adapter/conv_parallel Swin", seed=65, arch=a, inputs=image, outputs={"feature": ""},
                 state=swin.conv_adapter_shapes(a, reach),
                 loss="sum(feature * fill_input('cotangent', shape, seed))")  # fmt: skip
    r.judge(about, swin.conv_adapter)
    a = dict(sizes, s=0.7, width=3)
    for sites in (["attn"], ["attn", "mlp"]):
        more = dict(system="convpass_swin", arch=a, state=swin.convpass_shapes(a, reach, sites))
        r.judge(about | more, swin.convpass)


@pytest.mark.parametrize(("sizes", "image"), [
    (dict(dim=8, depths=[2, 2], num_heads=[1, 2], window_size=3, patch=2, ratio=2, out_indices=[0, 1]), (14, 10)),
    (dict(dim=12, depths=[1, 2, 1], num_heads=[3, 3, 4], window_size=5, patch=2, ratio=4, out_indices=[2]), (18, 22)),
], ids=["window 3", "window 5"])  # fmt: skip
def test_mona(sizes, image):
    inputs = {"image": {"shape": [2, 3, *image]}, "tokens": {"shape": [2, 6, sizes["dim"]], "hw": [2, 3]}}
    about = dict(system="mona", seed=66, arch=dict(sizes, ln_eps=1e-5), state=swin.mona_shapes(sizes), inputs=inputs)
    r.judge(about, swin.mona)
