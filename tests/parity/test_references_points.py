"""Networks on points against formulas in float64, at sizes and with options that no shipped case has."""

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_points as points

S2, K3, UNEVEN = dict(kernel_size=2, stride=2), dict(kernel_size=3), dict(kernel_size=1, stride=[2, 2, 1])
OPERATIONS = {
    "five": ("conv", dict(kernel_size=5, bias=True), []),
    "one_s3": ("conv", dict(kernel_size=1, stride=3, bias=True), []),
    "four": ("conv", dict(kernel_size=4), []),
    "three_s3": ("conv", dict(kernel_size=3, stride=3), []),
    "two_s4": ("conv", dict(kernel_size=2, stride=4), []),
    "mixed": ("conv", dict(kernel_size=[1, 2, 5], stride=[1, 3, 2], dilation=[1, 2, 1]), []),
    "dilated_s2": ("conv", dict(kernel_size=3, stride=2, dilation=3), []),
    "two_dilated": ("conv", dict(kernel_size=2, dilation=2), []),
    "cross_s2": ("conv", dict(kernel_size=3, stride=2, cross=True), []),
    "cross_mixed": ("conv", dict(kernel_size=[5, 1, 3], cross=True, dilation=2), []),
    "deep": ("conv", dict(kernel_size=3, dilation=2), [["conv", S2], ["conv", dict(kernel_size=3, stride=2)]]),
    "back5": ("convtr", dict(kernel_size=5, stride=2, bias=True), [["conv", S2]]),
    "back_twice": ("convtr", dict(kernel_size=2, stride=2), [["conv", S2], ["conv", S2]]),
    "back_to_one": ("convtr", dict(kernel_size=3, stride=4), [["conv", S2], ["conv", S2]]),
    "back_dilated": ("convtr", dict(kernel_size=3, stride=2, dilation=2), [["conv", S2]]),
    "back_mixed": ("convtr", dict(kernel_size=[3, 2, 1], stride=[2, 2, 1]), [["conv", UNEVEN]]),
    "back_same": ("convtr", dict(kernel_size=3), []),
    "made5": ("gentr", dict(kernel_size=5, stride=2), [["conv", S2]]),
    "made3_s3": ("gentr", dict(kernel_size=3, stride=3, bias=True), [["conv", dict(kernel_size=3, stride=3)]]),
    "made_from_4": ("gentr", dict(kernel_size=2, stride=2), [["conv", dict(kernel_size=2, stride=4)]]),
    "made_same": ("gentr", dict(kernel_size=3), []),
    "then_conv": ("conv", K3, [["conv", S2], ["gentr", dict(kernel_size=3, stride=2)]]),
    "max3": ("max", dict(kernel_size=3), []),
    "max3_s2": ("max", dict(kernel_size=3, stride=2), []),
    "avg5_s3": ("avg", dict(kernel_size=5, stride=3), []),
    "avg2_d2": ("avg", dict(kernel_size=2, dilation=2), []),
    "sum_mixed": ("sum", dict(kernel_size=[1, 3, 2], stride=[1, 2, 2]), []),
    "sum_deep": ("sum", dict(kernel_size=2, stride=2), [["conv", S2]]),
}  # fmt: skip


def sparse_state(name, op, args, after, ins, outs):
    """Shapes of the kernels of an operation."""
    state = {}
    steps = [*after, [op, args]]
    for i, (kind, options) in enumerate(steps):
        at = f"{name}." if i == len(steps) - 1 else f"{name}.pre{i}."
        if kind not in ("max", "avg", "sum"):
            count = len(points.offsets(options["kernel_size"], (1, 1, 1), options.get("cross", False)))
            plain = count == 1 and options.get("stride", 1) == 1
            state[f"{at}kernel"] = [ins, outs] if plain else [count, ins, outs]
            state |= {f"{at}bias": [1, outs]} if options.get("bias") else {}
            ins = outs
    return state


@pytest.mark.parametrize(("count", "spread"), [(60, 3), (25, 9)])
def test_sparse_operations(count, spread):
    variants = {
        name: dict(op=op, args=args, after=after, state=sparse_state(name, op, args, after, 3, 4))
        for name, (op, args, after) in OPERATIONS.items()
    }
    arch = dict(in_channels=3, out_channels=4, batch=3, dimension=3, spread=spread)
    about = dict(
        system="minkowski", seed=count, arch=arch, variants=variants, inputs={"features": {"shape": [count, 3]}}
    )
    r.judge(about, points.minkowski)


ENCODER = dict(in_channels=4, enc_depths=[2, 1, 2], enc_channels=[6, 8, 12], enc_num_head=[2, 1, 3])
NETWORKS = {
    "sonata": ("sonata", dict(ENCODER, stride=[3, 2], enc_patch_size=[7, 5, 4], order=["hilbert", "z-trans", "z"],
                              mask_token=True)),
    "offsets": ("sonata", dict(ENCODER, stride=[2, 4], enc_patch_size=[9, 64, 3], order=["hilbert-trans", "z"],
                               enable_rpe=True, qkv_bias=False, mlp_ratio=2.5)),
    "behind": ("sonata", dict(ENCODER, stride=[4, 2], enc_patch_size=[1024] * 3, order=["hilbert"], pre_norm=False,
                              layer_scale=0.3, dec_depths=[2, 1], dec_channels=[10, 6], dec_num_head=[5, 2],
                              dec_patch_size=[1024, 1024])),
    "smaller": ("sonata", dict(ENCODER, stride=[2, 2], enc_patch_size=[8, 6, 4], order=["z", "hilbert"],
                               dec_depths=[1, 2], dec_channels=[8, 8], dec_num_head=[2, 2], dec_patch_size=[4, 3])),
    "first": ("v1", dict(ENCODER, stride=[2, 4], enc_patch_size=[6, 5, 4], order=["hilbert", "z", "z-trans"],
                         dec_depths=[2, 1], dec_channels=[8, 6], dec_num_head=[4, 3], dec_patch_size=[6, 5],
                         enable_rpe=True)),
    "first_alone": ("v1", dict(ENCODER, stride=[8, 2], enc_patch_size=[5, 5, 5], order=["z-trans", "hilbert-trans"],
                               cls_mode=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_point_transformer(name):
    mode, args = NETWORKS[name]
    variant = dict(
        mode=mode, args=args, mask=bool(args.get("mask_token")), state=points.ptv3_shapes(args, mode == "v1")
    )
    arch = dict(clouds=[13, 30, 22], extent=11 if name == "sonata" else 8, flash=False)
    about = dict(system="ptv3", seed=12, arch=arch, variants={"x": variant}, inputs={},
                 input_arrays=["grid_coord", "batch", "coord"])  # fmt: skip
    r.judge(about, points.ptv3)
