"""A pre-norm transformer block written out in float64, from its weights alone."""

import torch
import torch.nn.functional as F


def norm(x, layer):
    """Layer normalization by its formula."""
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attention(q, k, v, heads):
    """softmax(q k^T / sqrt(d)) v of tokens (B, N, D), head by head."""
    outs = []
    for a, b, c in zip(*(t.chunk(heads, -1) for t in (q, k, v)), strict=True):
        outs.append((a @ b.mT / a.shape[-1] ** 0.5).softmax(-1) @ c)
    return torch.cat(outs, -1)


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def same(y, u):
    return y


def run(block, x, qkv=same, after_attn=same, after_mlp=same, scales=(1, 1)):
    """A block of a `VisionTransformer` with exact GELU; each function maps (output, input) of an operation."""
    u = norm(x, block.norm1)
    q, k, v = qkv(u @ block.attn.qkv.weight.T + block.attn.qkv.bias, u).chunk(3, -1)
    y = attention(q, k, v, block.attn.num_heads) @ block.attn.proj.weight.T + block.attn.proj.bias
    x = x + scales[0] * after_attn(y, u)
    u = norm(x, block.norm2)
    hidden = F.gelu(u @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    return x + scales[1] * after_mlp(hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias, u)


class Square(torch.nn.Module):
    """Stands where a dropout was, to show what it acts on."""

    def forward(self, x):
        return x.square()
