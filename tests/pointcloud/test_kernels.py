"""Triton kernels against the plain searches, index for index, in triton's interpreter; compiled for CUDA devices."""

import os
import subprocess
import sys

import pytest
import torch

from pointcloud import ops

pytest.importorskip("triton", reason="triton is not installed")

CASES = """
import torch
from pointcloud import kernels, ops
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
assert kernels.INTERPRETED
def random(*shape): return torch.rand(shape, generator=g)
def grid(batch, size, channels): return torch.randint(0, 3, (batch, size, channels), generator=g).float()  # many ties
def twice(search, *args, **options):
    plain, ours = (search(*args, backend=b, **options) for b in ("torch", "triton"))
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (plain, ours)), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), (search.__name__, options, a, b)
rough = random(2, 90, 3); rough[1, 40:] = float("nan")  # behind a length: never looked at
for points, lengths in ((random(2, 300, 3), None), (rough, [90, 40]), (grid(2, 70, 3), [70, 9]), (grid(1, 40, 2), None),
                        (random(3, 30, 4), [30, 0, 1]), (random(1, 1, 3), None), (grid(1, 700, 3), None)):  # two blocks
    for count in (1, 12, 80):
        twice(ops.farthest_point_sample, points, count, lengths)
    twice(ops.farthest_point_sample, points, [3 + b for b in range(len(points))], lengths)
    clean = points.nan_to_num()
    twice(ops.farthest_point_sample, clean, 5, lengths, start=torch.full((len(points),), points.shape[1] - 1))
    twice(ops.farthest_point_sample, clean - 0.01, 9, lengths, skip_near_origin=True)
for query, points, lengths in (
    (random(2, 20, 3), random(2, 100, 3), None), (random(2, 20, 3), rough, [90, 40]),
    (grid(2, 17, 3), grid(2, 80, 3), [80, 3]), (random(1, 5, 2), random(1, 7, 2), None),
    (random(2, 3, 3), random(2, 6, 3), [0, 6]), (random(1, 33, 4), random(1, 65, 4), None),
    (random(1, 0, 3), random(1, 4, 3), None),
):
    rows = [query.shape[1] - b for b in range(len(query))] if query.shape[1] > 2 else None
    for k in (1, 5, 16, 90):
        twice(ops.knn, query, points, k, rows, lengths)
        twice(ops.ball_query, query, points, 0.3, k, rows, lengths)
    twice(ops.knn, query, points, 4, None, lengths, norm=1)
    twice(ops.ball_query, query, points, 1.0, 4, None, lengths, fill="first")
    twice(ops.ball_query, query, points, 1e-4, 4, None, lengths)  # empty balls
    twice(ops.ball_query, query, points, 9.0, 4, None, lengths)  # full ones
double = random(1, 9, 3).double()
try:
    ops.knn(double, double, 2, backend="triton")
except ValueError as error:
    assert "float32" in str(error)
else:
    raise AssertionError("float64 was taken")
print("all agree")
"""


def test_kernels_give_the_indices_of_the_plain_searches():
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", CASES]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.stdout == "all agree\n", done.stderr[-3000:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_kernels_are_not_chosen():
    points = torch.rand(1, 9, 3)
    assert ops.choose_backend("auto", points) != "triton"
    with pytest.raises(ValueError, match="'triton' cannot be used: triton's kernels need a CUDA device"):
        ops.knn(points, points, 2, backend="triton")


SIGNATURES = {
    "farthest_kernel": (
        "planes=*fp32 nearest=*fp32 chosen=*i64 first=*i64 most=i32 batch=i32 size=i32",
        dict(channels=3, block=1024),
    ),
    "nearest_kernel": (
        "query=*fp32 points=*fp32 valid=*i8 keys_out=*i64 queries=i32 size=i32",
        dict(k=5, kept=8, channels=3, norm=2, tile=16, block=64, far=2**63 - 1),
    ),
    "ball_kernel": (
        "query=*fp32 points=*fp32 valid=*i8 found=*i64 squared=fp32 queries=i32 size=i32",
        dict(k=5, channels=3, tile=16, block=64),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", SIGNATURES)
def test_kernels_compile_for_cuda_without_fused_multiplications(name, capability):
    """No GPU is needed to compile; a fused multiplication would round otherwise than the plain searches."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pointcloud import kernels

    arguments, constants = SIGNATURES[name]
    signature = dict(a.split("=") for a in arguments.split()) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=getattr(kernels, name), signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=kernels.OPTIONS)
    assert ".visible .entry" in made.asm["ptx"]
    assert "fma.rn" not in made.asm["ptx"]
