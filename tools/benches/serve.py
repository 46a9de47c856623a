"""Many tasks on one encoder against as many models: time of a batch and memory of the weights."""

import statistics
import time
from typing import Any

import torch

from tools.benches.video import clips_for, encoder, evl_model, head
from xmodal.model import TransferModel
from xmodal.use.trunk import SharedTrunk, share_weights

TASKS = (1, 4, 16)


def model(number: int, args: Any) -> TransferModel:
    """Return a task: probes and EVL in turn."""
    if number % 2:
        return evl_model(args).eval()
    reader = dict(type="time_mean")
    return TransferModel(encoder=encoder(args.size), head=head(), reader=reader).eval()


def held(models: list[TransferModel]) -> float:
    """Return the megabytes of the weights of models, each counted once."""
    found = {p.data_ptr(): p.numel() * p.element_size() for m in models for p in m.parameters()}
    return sum(found.values()) / 2**20


@torch.no_grad()
def measured(count: int, args: Any) -> dict[str, Any]:
    """Answer a batch for some tasks by as many models and by one trunk."""
    clips = clips_for(args)["clips"].clamp(0, 1) * 255
    batch = {"clips": clips, "sample_id": [str(i) for i in range(len(clips))]}
    models = [model(i, args) for i in range(count)]
    apart, every = held(models), list(range(count))
    alone = [torch.stack([row["scores"] for row in m.test_step(dict(batch))]) for m in models]
    share_weights(models)
    trunk = SharedTrunk(models)
    found = trunk.scores(dict(batch), every)
    times: dict[str, list[float]] = {"N models": [], "one trunk": []}
    for _ in range(args.repeats):
        for way, values in times.items():
            start = time.process_time()
            if way == "one trunk":
                trunk.scores(dict(batch), every)
            else:
                for m in models:
                    m.test_step(dict(batch))
            values.append(time.process_time() - start)
    seconds = {f"{way}, CPU s": statistics.median(values) for way, values in times.items()}
    worst = max(float((found[i] - alone[i]).abs().max()) for i in every)
    weights = {"N models, MB": apart, "one trunk, MB": held(models)}
    return {"tasks": count, **seconds, **weights, "largest difference": worst}


def serve(args: Any) -> list[dict[str, Any]]:
    """Answer for 1, 4 and 16 tasks, linear probes and EVL in turn."""
    return [measured(count, args) for count in TASKS]
