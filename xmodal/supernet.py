"""Training and judging NOAH's supernet: a random subnet a step, accuracies of subnets on validation images.

Paper: Neural Prompt Search (arXiv 2206.04673). The search itself is in `search.py`, the parts in `adapters/noah.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from mmengine.hooks import Hook

from xmodal.adapters.noah import KINDS, choose_subnet
from xmodal.registry import HOOKS
from xmodal.search import SearchSpace, Sizes, sample_subnet


@HOOKS.register_module(name="sample_subnet")
class SampleSubnet(Hook):
    """Let every training step use one random subnet; validation uses the whole supernet.

    The subnet is a function of (seed, epoch, step), so that a resumed run goes on as an uninterrupted one.

    Args:
        dims: sizes to choose from; the supernet has the largest.
        depths: how many leading blocks have a part at all.
        name: of the supernet at its sites.
    """

    def __init__(self, dims: Iterable[int], depths: Iterable[int], name: str = "noah"):
        self.dims, self.depths, self.name = list(dims), list(depths), name

    def before_train(self, runner: Any) -> None:
        """Make the space out of the tower."""
        self.encoder = runner.model.module.encoder if hasattr(runner.model, "module") else runner.model.encoder
        self.space = SearchSpace(len(self.encoder.blocks), self.encoder.dim, self.dims, self.depths)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Choose the step's subnet."""
        loop = runner.train_loop
        sizes = sample_subnet(self.space, runner.seed, loop.epoch, loop.iter % loop.steps_per_epoch)
        choose_subnet(self.encoder, sizes, self.name)

    def before_val_epoch(self, runner: Any) -> None:
        """Choose all of it."""
        choose_subnet(self.encoder, whole(self.space), self.name)


def whole(space: SearchSpace) -> Sizes:
    """The sizes of the supernet itself."""
    return {kind: [max(space.dims)] * space.depth for kind in KINDS}


def accuracy_of(model: Any, loader: Iterable[Mapping[str, Any]], name: str = "noah") -> Callable[[Sizes], float]:
    """A function from a subnet to the accuracy (0 to 1) that the supernet's weights give it.

    Args:
        model: a trained `TransferModel` with a supernet in its encoder.
        loader: batches with `label`; they are read once and kept.
        name: of the supernet.

    Raises:
        ValueError: no labeled sample.
    """
    model.eval()
    batches = [model.data_preprocessor(batch) for batch in loader]
    total = sum(len(batch["label"]) for batch in batches)
    if not total:
        raise ValueError("the validation data have no sample to judge subnets by")

    @torch.no_grad()
    def evaluate(sizes: Sizes) -> float:
        choose_subnet(model.encoder, sizes, name)
        right = 0
        for batch in batches:
            scores = model(mode="tensor", **{k: v for k, v in batch.items() if k not in ("label", "sample_id")})
            right += int((scores.argmax(1) == batch["label"]).sum())
        return right / total

    return evaluate
