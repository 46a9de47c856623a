"""Augment the tokens of a clip for EVL's decoder, in two functions with hand-written gradients.

Paper: Frozen CLIP Models are Efficient Video Learners (arXiv 2208.03550).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Augment(torch.autograd.Function):
    """Tokens plus convolution over time, time positions and motion, in one new tensor; keeps nothing else."""

    @staticmethod
    def forward(
        ctx,
        frames: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        time: Tensor | None,
        motion: Tensor | None,
        at: int,
    ) -> Tensor:
        """Tokens (B, T, N, D), kernel (D, 1, 3, 1), bias (D), positions (T, D), motion (B, T, n, D) from `at` on."""
        ctx.save_for_backward(frames, weight)
        ctx.motion = None if motion is None else slice(at, at + motion.shape[2])
        if weight is None:
            tokens = frames.clone()
        else:  # over (T, N) as a 2D convolution whose channels-last layout tokens have
            conv = F.conv2d(frames.permute(0, 3, 1, 2), weight, bias, padding=(1, 0), groups=len(weight))
            tokens = conv.permute(0, 2, 3, 1).add_(frames)
        if time is not None:
            tokens += time[:, None]
        if motion is not None:
            tokens[:, :, ctx.motion] += motion
        return tokens

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of all that is added, and of the tokens where somebody asks."""
        frames, weight = ctx.saved_tensors
        tokens = grad if ctx.needs_input_grad[0] else None
        kernel = bias = None
        if weight is not None:
            maps, groups, wanted = (y.permute(0, 3, 1, 2) for y in (grad, frames)), len(weight), tokens is not None
            x, kernel, bias = torch.ops.aten.convolution_backward(  # stride, padding, dilation, transposed, its padding
                *maps, weight, [groups], [1, 1], [1, 0], [1, 1], False, [0, 0], groups, [wanted, True, True]
            )
            tokens = tokens if x is None else tokens + x.permute(0, 2, 3, 1)
        time = grad.sum((0, 2)) if ctx.needs_input_grad[3] else None
        return tokens, kernel, bias, time, grad[:, :, ctx.motion] if ctx.motion else None, None


class ReadTokens(torch.autograd.Function):
    """Queries read layer-normed tokens that are never made: mean and scale of a token are factors of its weights.

    With y = (token - mean) / std a query scores query.(weight*y) and reads the sum of a*(weight*y + bias);
    the bias shifts all scores of a query alike. The gradient of a token is a combination of the queries, of their
    gradients and of the token itself: one product.
    """

    @staticmethod
    def forward(ctx, query: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Queries (B, H, D), tokens (B, N, D), weight and bias (D) of the norm to (B, H, D)."""
        mean = tokens.mean(-1)[:, None]  # (B, 1, N)
        square = torch.linalg.vector_norm(tokens, dim=-1)[:, None].square() / tokens.shape[-1]
        scale = (square - mean.square() + eps).rsqrt()  # (B, 1, N)
        scores = against_normed(query * weight, tokens, mean, scale)  # (B, H, N)
        attention = scores.softmax(-1)
        read = sum_normed(attention, tokens, mean, scale)  # (B, H, D)
        ctx.save_for_backward(query, tokens, weight, mean, scale, scores, attention, read)
        return read * weight + bias

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of queries, tokens and norm."""
        query, tokens, weight, mean, scale, scores, attention, read = ctx.saved_tensors
        both = torch.cat([query, grad], 1) * weight  # (B, 2H, D)
        change = against_normed(grad * weight, tokens, mean, scale)  # of the attention (B, H, N)
        slope = attention * (change - (attention * change).sum(-1, keepdim=True))  # gradient of the scores
        part = torch.cat([slope, attention], 1)  # (B, 2H, N)
        along = -scale * (slope * scores + attention * change).sum(1, keepdim=True) / tokens.shape[-1] * scale
        shift = -scale * (part * both.mean(-1, keepdim=True)).sum(1, keepdim=True) - along * mean  # (B, 1, N)
        change = torch.addcmul(shift.transpose(1, 2), tokens, along.transpose(1, 2))  # (B, N, D)
        change.baddbmm_((part * scale).transpose(1, 2), both)
        seen = sum_normed(slope, tokens, mean, scale)  # (B, H, D)
        return seen * weight, change, (seen * query + read * grad).sum((0, 1)), grad.sum((0, 1)), None


def against_normed(query: Tensor, tokens: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Products (B, H, N) of queries (B, H, D) with tokens (B, N, D) less their mean (B, 1, N), times scale."""
    return (query @ tokens.transpose(1, 2) - query.sum(-1, keepdim=True) * mean) * scale


def sum_normed(weights: Tensor, tokens: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Sums (B, H, D) of tokens (B, N, D) less their mean (B, 1, N), times scale, with weights (B, H, N)."""
    weights = weights * scale
    return weights @ tokens - (weights * mean).sum(-1, keepdim=True)
