"""Contrastive losses between images and texts: CLIP's, and UniCL's for labels and captions in one batch.

Papers: CLIP (arXiv 2103.00020), UniCL (arXiv 2204.03610). Both are computed in float32, over the samples of all
processes.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    """Rows of all processes, in rank order; the gradient of a row comes from every process."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(c) for c in counts]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.start, ctx.size = sum(sizes[: dist.get_rank()]), len(rows)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[ctx.start : ctx.start + ctx.size]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (B, ...) of every process one behind the other; processes may hold different B. Alone, the rows themselves.

    Every process then computes the same loss. Its gradient comes back summed over processes, so that averaging
    gradients over them, as DDP does, gives the gradient of the loss of the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows)


def unicl_target(label: Tensor) -> Tensor:
    """Compute which image-text pairs of a batch are positives.

    Args:
        label: (N,) class numbers above 0; 0 for a caption, which belongs to its own image alone.

    Returns:
        (N, N) float32 of 0 and 1, symmetric, 1 on the diagonal.

    Raises:
        ValueError: a negative label.
    """
    if label.device.type == "cpu" and len(label) and int(label.min()) < 0:
        raise ValueError(f"label {int(label.min())}: UniCL's classes count from 1, and 0 says that a text is a caption")
    number = torch.arange(len(label), device=label.device)
    own = torch.where(label == 0, label.max() + 1 + number, label) if len(label) else label
    return (own[:, None] == own[None]).float()


def same_text_label(ids: Tensor) -> Tensor:
    """Labels (B,) for `unicl_target`, equal where token ids (B, L) are, in every process alike (a 62 bit hash)."""
    number = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
    for column in ids.unbind(1):
        number = number * 6364136223846793005 + column + 1  # wraps around
    return (number ^ (number >> 31)).bitwise_and((1 << 62) - 1) + 1


def unicl_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, label: Tensor | None = None, counted: Tensor | None = None
) -> dict[str, Tensor]:
    """Bidirectional contrast in which samples of one class are positives of each other.

    Paper: UniCL (arXiv 2204.03610). The target of an image is spread evenly over its positives; the loss of a direction
    is the mean over rows, and the two directions are averaged.

    Args:
        image: (B, D) features of this process, L2-normalized.
        text: (B, D) likewise; row i goes with image i.
        logit_scale: logarithm of the factor on the similarities, a scalar.
        label: (B,) see `unicl_target`; None when all texts are captions, which makes it CLIP's loss.
        counted: (B,) True for pairs that the means are taken over; the others are negatives alone. None for all.

    Returns:
        `loss`, `i2t` and `t2i` over all processes.

    Raises:
        ValueError: features or labels that do not go together.
    """
    if image.shape != text.shape or (label is not None and label.shape != image.shape[:1]):
        shapes = tuple(image.shape), tuple(text.shape), None if label is None else tuple(label.shape)
        raise ValueError(f"image and text features and labels must go together, got shapes {shapes}")
    with torch.autocast(image.device.type, enabled=False):
        image, text = gather_rows(image.float()), gather_rows(text.float())
        logits = logit_scale.float().exp() * image @ text.t()  # (N, N)
        target = torch.eye(len(logits), device=logits.device) if label is None else unicl_target(gather_rows(label))
        share = target / target.sum(1, keepdim=True)
        i2t, t2i = soft_cross_entropy(logits, share, counted), soft_cross_entropy(logits.t(), share, counted)
    return {"loss": (i2t + t2i) / 2, "i2t": i2t, "t2i": t2i}


def soft_cross_entropy(logits: Tensor, share: Tensor, counted: Tensor | None) -> Tensor:
    """Mean cross-entropy of rows (N, N), of those that are counted (B of each process); 0 where none is."""
    if counted is None:
        return F.cross_entropy(logits, share)
    rows = gather_rows(counted).bool()
    return F.cross_entropy(logits[rows], share[rows]) if bool(rows.any()) else logits.sum() * 0


def clip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, label: Tensor | None = None, counted: Tensor | None = None
) -> dict[str, Tensor]:
    """CLIP's loss: every text belongs to its own image alone.

    Paper: CLIP (arXiv 2103.00020).

    Args:
        image: (B, D) features of this process, L2-normalized.
        text: (B, D) likewise.
        logit_scale: logarithm of the factor on the similarities.
        label: not looked at, so that the losses can take each other's place.
        counted: see `unicl_loss`.

    Returns:
        `loss`, `i2t` and `t2i` over all processes.
    """
    return unicl_loss(image, text, logit_scale, counted=counted)
