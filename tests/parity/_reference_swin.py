"""Swin with Conv-Adapter, Convpass or Mona from their formulas in float64; keys of timm 0.4."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity._reference_convnets import adapted, adapter_shapes
from tests.parity.core import Case

Place = Callable[[str, str, Tensor, Tensor], Tensor]  # block, site, stream behind, input of the branch


def swin_shapes(a: dict[str, Any], final: bool = True, reach: tuple[int, ...] | None = None) -> r.Shapes:
    """Patch embedding, stages of window attention, and patch merging at the end of all but the last."""
    d, p = a["dim"], a["patch"]
    state: r.Shapes = {"patch_embed.proj.weight": [d, 3, p, p], "patch_embed.proj.bias": [d]}
    state |= r.normed("patch_embed.norm", d)
    for i, (n, heads) in enumerate(zip(a["depths"], a["num_heads"], strict=True)):
        w = a["window_size"] if reach is None else reach[i]
        for j in range(n):
            at = f"layers.{i}.blocks.{j}"
            state |= r.normed(f"{at}.norm1", d) | r.normed(f"{at}.norm2", d) | r.affine(f"{at}.attn.proj", d, d)
            state |= {f"{at}.attn.relative_position_bias_table": [(2 * w - 1) ** 2, heads]}
            state |= r.affine(f"{at}.attn.qkv", 3 * d, d)
            state |= r.affine(f"{at}.mlp.fc1", a["ratio"] * d, d) | r.affine(f"{at}.mlp.fc2", d, a["ratio"] * d)
        if i < len(a["depths"]) - 1:
            at = f"layers.{i}.downsample"
            state |= r.normed(f"{at}.norm", 4 * d) | {f"{at}.reduction.weight": [2 * d, 4 * d]}
            d *= 2
    return state | (r.normed("norm", d) if final else {})


def region(i: int, size: int, w: int, shift: int) -> int:
    """Which of the three parts of a shifted axis a place is in."""
    return 0 if i < size - w else 1 if i < size - shift else 2


def window_attention(s: r.State, at: str, u: Tensor, heads: int, w: int, shift: int) -> Tensor:
    """Attention within windows of a map (B, H, W, C), padded right and below, rolled by `shift`."""
    b, h, width, c = u.shape
    u = F.pad(u, (0, 0, 0, -width % w, 0, -h % w))
    high, wide = u.shape[1:3]
    rolled = torch.roll(u, (-shift, -shift), (1, 2))
    table, out = s[f"{at}.relative_position_bias_table"], torch.zeros_like(u)
    place = [(i, j) for i in range(w) for j in range(w)]
    index = torch.tensor([[(y - n + w - 1) * (2 * w - 1) + x - m + w - 1 for n, m in place] for y, x in place])
    bias = table[index].permute(2, 0, 1)  # (heads, w*w, w*w)
    for top in range(0, high, w):
        for left in range(0, wide, w):
            x = rolled[:, top : top + w, left : left + w].reshape(b, w * w, c)
            parts = [(region(top + y, high, w, shift), region(left + z, wide, w, shift)) for y, z in place]
            apart = torch.tensor([[-100.0 * (p != q) for q in parts] for p in parts]) if shift else 0.0
            heads_out = []
            for k, (q, key, v) in enumerate(
                zip(*(t.chunk(heads, -1) for t in r.linear(s, f"{at}.qkv", x).chunk(3, -1)), strict=True)
            ):
                score = q @ key.mT / q.shape[-1] ** 0.5 + bias[k] + apart
                heads_out.append(score.softmax(-1) @ v)
            out[:, top : top + w, left : left + w] = torch.cat(heads_out, -1).reshape(b, w, w, c)
    out = torch.roll(out, (shift, shift), (1, 2))[:, :h, :width]
    return r.linear(s, f"{at}.proj", out)


def stages(s: r.State, a: dict[str, Any], x: Tensor, place: Place, shrink: bool) -> list[Tensor]:
    """Maps (B, H, W, C) behind the blocks of every stage; `shrink`: small maps are one window and not shifted."""
    x = F.conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], a["patch"])
    x, outs = r.norm(s, "patch_embed.norm", x.movedim(1, -1)), []
    for i, n in enumerate(a["depths"]):
        for j in range(n):
            at, w = f"layers.{i}.blocks.{j}", a["window_size"]
            whole = shrink and min(x.shape[1:3]) <= w
            w, shift = (min(x.shape[1:3]), 0) if whole else (w, w // 2 if j % 2 else 0)
            u = r.norm(s, f"{at}.norm1", x)
            x = place(at, "attn", x + window_attention(s, f"{at}.attn", u, a["num_heads"][i], w, shift), u)
            u = r.norm(s, f"{at}.norm2", x)
            y = r.linear(s, f"{at}.mlp.fc2", F.gelu(r.linear(s, f"{at}.mlp.fc1", u)))
            x = place(at, "mlp", x + y, u)
        outs.append(x)
        if i < len(a["depths"]) - 1:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            x = torch.cat([x[:, k::2, m::2] for k, m in ((0, 0), (1, 0), (0, 1), (1, 1))], -1)
            at = f"layers.{i}.downsample"
            x = r.norm(s, f"{at}.norm", x) @ s[f"{at}.reduction.weight"].T
    return outs


def pooled(case: Case, s: r.State, x: Tensor, words: tuple[str, ...], name: str) -> Any:
    """Mean of the normed tokens of the last stage."""
    feature = r.norm(s, "norm", x).mean((1, 2))
    own = {k: v for k, v in s.items() if any(word in k for word in words)}
    return {name: feature}, {"grad:": (r.cotangent(case, feature), own)}


def conv_adapter_shapes(a: dict[str, Any], reach: tuple[int, ...]) -> r.Shapes:
    """An adapter in every block."""
    state = swin_shapes(a, reach=reach)
    for i, n in enumerate(a["depths"]):
        for j in range(n):
            d = a["dim"] * 2**i
            state |= adapter_shapes(f"layers.{i}.blocks.{j}.tuning_module", d, d, a["gamma"], a["kernel"])
    return state


def conv_adapter(case: Case) -> Any:
    """On the normed map, added behind attention's residual sum; all norms train."""
    a, s = case.arch, r.doubled(case.state())

    def place(at: str, site: str, x: Tensor, u: Tensor) -> Tensor:
        y = adapted(s, f"{at}.tuning_module", u.movedim(-1, 1), F.gelu).movedim(1, -1) if site == "attn" else 0
        return x + y

    return pooled(case, s, stages(s, a, r.given(case), place, True)[-1], ("tuning", "norm"), "feature")


def convpass_shapes(a: dict[str, Any], reach: tuple[int, ...], sites: list[str]) -> r.Shapes:
    """Bypasses in all blocks."""
    state, h = swin_shapes(a, reach=reach), a["width"]
    for i, n in enumerate(a["depths"]):
        for at in [f"layers.{i}.blocks.{j}.adapter_{site}" for j in range(n) for site in sites]:
            d = a["dim"] * 2**i
            state |= r.affine(f"{at}.adapter_down", h, d) | r.affine(f"{at}.adapter_up", d, h)
            state |= {f"{at}.adapter_conv.weight": [h, h, 3, 3], f"{at}.adapter_conv.bias": [h]}
    return state


def convpass(case: Case) -> Any:
    """Bypasses on the un-windowed map."""
    a, s = case.arch, r.doubled(case.state())

    def place(at: str, site: str, x: Tensor, u: Tensor) -> Tensor:
        at = f"{at}.adapter_{site}"
        if f"{at}.adapter_up.bias" not in s:
            return x
        y = r.quick_gelu(r.linear(s, f"{at}.adapter_down", u)).movedim(-1, 1)
        y = F.conv2d(y, s[f"{at}.adapter_conv.weight"], s[f"{at}.adapter_conv.bias"], padding=1).movedim(1, -1)
        return x + a["s"] * r.linear(s, f"{at}.adapter_up", r.quick_gelu(y))

    return pooled(case, s, stages(s, a, r.given(case), place, True)[-1], ("adapter",), "feature")


def mona_shapes(a: dict[str, Any]) -> r.Shapes:
    """Two modules a block, and a norm of every stage that is asked for."""
    state, h = swin_shapes(a, final=False), 64
    for i, n in enumerate(a["depths"]):
        d = a["dim"] * 2**i
        for at in [f"layers.{i}.blocks.{j}.my_module_{k}" for j in range(n) for k in (1, 2)]:
            state |= {f"{at}.gamma": [d], f"{at}.gammax": [d], **r.normed(f"{at}.norm", d)}
            state |= r.affine(f"{at}.project1", h, d) | r.affine(f"{at}.project2", d, h)
            for k in (1, 2, 3):
                size = 2 * k + 1
                state |= {
                    f"{at}.adapter_conv.conv{k}.weight": [h, 1, size, size],
                    f"{at}.adapter_conv.conv{k}.bias": [h],
                }
            state |= {f"{at}.adapter_conv.projector.weight": [h, h, 1, 1], f"{at}.adapter_conv.projector.bias": [h]}
        state |= r.normed(f"norm{i}", d) if i in a["out_indices"] else {}
    return state


def mona_module(s: r.State, at: str, x: Tensor) -> Tensor:
    """x + up(gelu(q)) with q = c + conv1x1(c), c = mean of three filters + p, on a map (B, H, W, D)."""
    p = r.linear(s, f"{at}.project1", r.norm(s, f"{at}.norm", x) * s[f"{at}.gamma"] + x * s[f"{at}.gammax"])
    p, at2 = p.movedim(-1, 1), f"{at}.adapter_conv"
    c = p
    for k in (1, 2, 3):
        c = c + F.conv2d(p, s[f"{at2}.conv{k}.weight"], s[f"{at2}.conv{k}.bias"], 1, k, 1, p.shape[1]) / 3
    q = c + F.conv2d(c, s[f"{at2}.projector.weight"], s[f"{at2}.projector.bias"])
    return x + r.linear(s, f"{at}.project2", F.gelu(q.movedim(1, -1)))


def mona(case: Case) -> Any:
    """Normed maps of stages; windows of maps that they do not divide, padded."""
    a, s = case.arch, r.doubled(case.state())
    place = lambda at, site, x, u: mona_module(s, f"{at}.my_module_{1 if site == 'attn' else 2}", x)  # noqa: E731
    maps = stages(s, a, r.given(case), place, False)
    outs = {f"stage{i}": r.norm(s, f"norm{i}", maps[i]).movedim(-1, 1) for i in a["out_indices"]}
    loss = sum((r.cotangent(case, v, k.replace("stage", "cotangent")) for k, v in outs.items()), torch.zeros(()))
    h, w = case.json["inputs"]["tokens"]["hw"]
    alone = mona_module(s, "layers.0.blocks.0.my_module_1", r.given(case, "tokens").unflatten(1, (h, w)))
    own = {k: v for k, v in s.items() if "my_module" in k}
    return outs | {"mona_alone": alone.flatten(1, 2)}, {"grad:": (loss, own)}
