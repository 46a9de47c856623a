"""Cases of any size, and what they must give: float64, from the formulas, without a module of the product."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity.__main__ import load_builders
from tests.parity.core import Case, compare, find_builder

State = dict[str, Tensor]
Shapes = dict[str, list[int]]
TOLERANCE = "abs 2e-5 + 2e-5*|value|"
Formula = Callable[[Case], tuple[dict[str, Tensor], dict[str, tuple[Tensor, State]]]]


def doubled(state: Mapping[str, Tensor]) -> State:
    """The weights of a case in float64, all of them with gradients."""
    return {k: v.double().requires_grad_() if v.is_floating_point() else v for k, v in state.items()}


def judge(about: Mapping[str, Any], formula: Formula) -> None:
    """Let the builder of a case compute it, and compare everything with the formula.

    Args:
        about: the case's JSON.
        formula: gives arrays by name, and for each prefix of gradient norms a loss and the tensors by key.
    """
    load_builders()
    about = {"tolerance": TOLERANCE, **about}
    path = Path(f"{about['system'].replace('/', '_')}.json")
    arrays, losses = formula(Case(path, dict(about), {}))
    expected = {k: v.detach().numpy() for k, v in arrays.items()}
    for prefix, (loss, tensors) in losses.items():
        grads = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, retain_graph=True)
        for key, grad in zip(tensors, grads, strict=True):
            expected[f"{prefix}{key}"] = np.float64(0 if grad is None else grad.norm())
    case = Case(path, dict(about), expected)
    build = find_builder(about["system"])
    assert build is not None
    result = compare(case, build(case))
    assert result.passed, "\n" + result.line()
    assert result.compared >= len(arrays)
    assert result.gradients == sum(len(tensors) for _, tensors in losses.values())


def cotangent(case: Case, out: Tensor, name: str = "cotangent") -> Tensor:
    """sum(out * filled)."""
    return (out * case.cotangent(out.shape, name).double()).sum()


def given(case: Case, name: str = "image") -> Tensor:
    """An input in float64."""
    return case.input(name).double()


def linear(s: State, name: str, x: Tensor) -> Tensor:
    """x W^T + b."""
    y = x @ s[f"{name}.weight"].T
    return y + s[f"{name}.bias"] if f"{name}.bias" in s else y


def norm(s: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer normalization of the last axis."""
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head; (..., N, D)."""
    outs = []
    for a, b, c in zip(*(t.chunk(heads, -1) for t in (q, k, v)), strict=True):
        outs.append((a @ b.mT / a.shape[-1] ** 0.5).softmax(-1) @ c)
    return torch.cat(outs, -1)


def packed(s: State, name: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """nn.MultiheadAttention from its weights."""
    weight, bias = s[f"{name}.in_proj_weight"].chunk(3), s[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weight, bias, strict=True))
    return linear(s, f"{name}.out_proj", attention(q, k, v, heads))


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def batch_norm(s: State, name: str, x: Tensor, train: bool = False, eps: float = 1e-5) -> Tensor:
    """Batch normalization of axis 1 by its statistics, or by the batch's."""
    axes, shape = [i for i in range(x.ndim) if i != 1], [1, -1] + [1] * (x.ndim - 2)
    if train:
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
    else:
        mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    y = (x - mean.view(shape)) / (var.view(shape) + eps).sqrt()
    return y * s[f"{name}.weight"].view(shape) + s[f"{name}.bias"].view(shape)


def patches(weight: Tensor, images: Tensor, bias: Tensor | None = None) -> Tensor:
    """Patch tokens (B, N, D) of images (B, 3, H, W)."""
    p = weight.shape[-1]
    cut = images.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    y = cut @ weight.flatten(1).T
    return y if bias is None else y + bias


def affine(name: str, outs: int, ins: int) -> Shapes:
    """Shapes of a linear layer."""
    return {f"{name}.weight": [outs, ins], f"{name}.bias": [outs]}


def normed(name: str, dim: int) -> Shapes:
    """Shapes of a layer norm."""
    return {f"{name}.weight": [dim], f"{name}.bias": [dim]}


def batch_normed(name: str, dim: int) -> Shapes:
    """Shapes of a batch norm."""
    return {**normed(name, dim), f"{name}.running_mean": [dim], f"{name}.running_var": [dim],
            f"{name}.num_batches_tracked": []}  # fmt: skip


def multihead(name: str, dim: int) -> Shapes:
    """Shapes of nn.MultiheadAttention."""
    return {f"{name}.in_proj_weight": [3 * dim, dim], f"{name}.in_proj_bias": [3 * dim],
            **affine(f"{name}.out_proj", dim, dim)}  # fmt: skip


def clip_shapes(prefix: str, width: int, layers: int, hidden: int, patch: int, side: int, out: int = 0) -> Shapes:
    """Shapes of CLIP's image tower for `side` x `side` patches."""
    state: Shapes = {f"{prefix}class_embedding": [width], f"{prefix}positional_embedding": [side * side + 1, width],
                     f"{prefix}conv1.weight": [width, 3, patch, patch]}  # fmt: skip
    state |= normed(f"{prefix}ln_pre", width)
    for i in range(layers):
        at = f"{prefix}transformer.resblocks.{i}"
        state |= multihead(f"{at}.attn", width) | normed(f"{at}.ln_1", width) | normed(f"{at}.ln_2", width)
        state |= affine(f"{at}.mlp.c_fc", hidden, width) | affine(f"{at}.mlp.c_proj", width, hidden)
    return state | normed(f"{prefix}ln_post", width) | ({f"{prefix}proj": [width, out]} if out else {})


def clip_embed(s: State, frames: Tensor, prefix: str, added: Tensor | float = 0.0) -> Tensor:
    """Tokens in front of the first block; `added` stands in front of the first norm."""
    x = patches(s[f"{prefix}conv1.weight"], frames)
    x = torch.cat([s[f"{prefix}class_embedding"].expand(len(x), 1, -1), x], 1) + s[f"{prefix}positional_embedding"]
    return norm(s, f"{prefix}ln_pre", x + added)


def clip_block(s: State, at: str, x: Tensor, heads: int) -> Tensor:
    """One of CLIP's blocks."""
    y = norm(s, f"{at}.ln_1", x)
    x = x + packed(s, f"{at}.attn", y, y, y, heads)
    return x + clip_mlp(s, at, norm(s, f"{at}.ln_2", x))


def clip_mlp(s: State, at: str, y: Tensor) -> Tensor:
    """CLIP's MLP."""
    return linear(s, f"{at}.mlp.c_proj", quick_gelu(linear(s, f"{at}.mlp.c_fc", y)))


def frozen(s: State, keys: Iterable[str]) -> State:
    """The tensors that train: those among `keys` that are numbers with gradients."""
    return {k: s[k] for k in keys if s[k].is_floating_point() and "running" not in k}


def gelu(x: Tensor) -> Tensor:
    """Exact."""
    return F.gelu(x)
