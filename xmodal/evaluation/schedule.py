"""Learning rates of the CoOp family: a warm-up by epochs, then a cosine that starts from its own epoch 0."""

import math

WARMUPS = ("constant", "linear")


def learning_rates(
    lr: float,
    epochs: int,
    warmup_epochs: int = 1,
    warmup_type: str = "constant",
    warmup_lr: float = 1e-5,
    cosine_epochs: int | None = None,
    recount: bool = True,
) -> list[float]:
    """The rate of every epoch.

    Because the cosine starts when the warm-up ends and is as long as the whole run, the last epochs never reach 0.

    Args:
        lr: the base rate.
        epochs: epochs in all.
        warmup_epochs: epochs of warm-up.
        warmup_type: `constant` holds `warmup_lr`; `linear` uses lr * epoch / warmup_epochs, and `warmup_lr` in epoch 0.
        warmup_lr: rate of the warm-up.
        cosine_epochs: half a period of the cosine, default `epochs`.
        recount: False lets the cosine count the warm-up's epochs too.

    Raises:
        ValueError: an unknown `warmup_type`.
    """
    if warmup_type not in WARMUPS:
        raise ValueError(f"warmup_type {warmup_type!r}: choose one of {', '.join(WARMUPS)}")
    period = cosine_epochs or epochs
    start = warmup_epochs if recount else 0

    def rate(epoch: int) -> float:
        if epoch >= warmup_epochs:
            return lr * (1 + math.cos(math.pi * (epoch - start) / period)) / 2
        return warmup_lr if warmup_type == "constant" or epoch == 0 else lr * epoch / warmup_epochs

    return [rate(epoch) for epoch in range(epochs)]
