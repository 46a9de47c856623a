"""Compute attention with torch's fused kernel, in the precision that is fastest on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FUSED = "_scaled_dot_product_flash_attention_for_cpu"  # torch's private kernel; looked up where it is used
HALF_IS_SLOWER = not getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)()  # AMX is what bfloat16 gains from


class WidenedAttention(torch.autograd.Function):
    """Compute the attention of half-precision inputs in float32; the backward pass keeps them in half precision."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
        """Queries (B, H, N, d), keys and values (B, H, M, d) to (B, H, N, d)."""
        out, logsumexp = getattr(torch.ops.aten, FUSED)(q.float(), k.float(), v.float(), 0.0, is_causal)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, logsumexp)
        ctx.is_causal = is_causal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of queries, keys and values."""
        q, k, v, out, logsumexp = ctx.saved_tensors
        wide = (x.float() for x in (grad, q, k, v, out))
        gradients = getattr(torch.ops.aten, f"{FUSED}_backward")(*wide, logsumexp, 0.0, ctx.is_causal)
        return *(x.to(q.dtype) for x in gradients), None


def attend(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """softmax(q.k / sqrt(d)) v, by torch's fused kernel.

    On a CPU without AMX bfloat16 goes through the float32 kernel, which took two thirds of the time there (where this
    torch has that kernel).

    Args:
        q: queries (B, H, N, d).
        k: keys (B, H, M, d).
        v: values (B, H, M, d).
        is_causal: a token sees those in front of it alone.
        mask: added to the scores, or False for keys that are not seen; None for neither.

    Returns:
        (B, H, N, d).
    """
    if mask is not None:
        mask = mask if mask.dtype == torch.bool else mask.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and HALF_IS_SLOWER and hasattr(torch.ops.aten, FUSED):
        return WidenedAttention.apply(q, k, v, is_causal)
    return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
