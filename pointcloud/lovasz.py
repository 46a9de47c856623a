"""The Lovasz-Softmax loss: a surrogate of the mean IoU that can be differentiated."""

import torch
from torch import Tensor


def lovasz_softmax(probabilities: Tensor, label: Tensor) -> Tensor:
    """Mean over the classes that are there of the Lovasz extension of 1 - IoU.

    Paper: arXiv 1705.08790.

    Args:
        probabilities: (n, K), rows that sum to 1.
        label: (n,) class of each row; at least one.
    """
    losses = []
    for c in torch.unique(label).tolist():
        true = (label == c).float()
        error, order = (true - probabilities[:, c]).abs().sort(descending=True)
        true = true[order]
        total = true.sum()
        jaccard = 1 - (total - true.cumsum(0)) / (total + (1 - true).cumsum(0))
        steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        losses.append(error @ steps)
    return torch.stack(losses).mean()
