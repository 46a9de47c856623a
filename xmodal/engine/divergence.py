"""Keep a training step whose loss or gradient is not finite, so that it can be repeated exactly and looked into."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from xmodal.atomic import replacing, write_text
from xmodal.data.collate import batch_size, split
from xmodal.engine.checkpoint import bare, load_own_state, own_state, set_random_state
from xmodal.engine.precision import autocast
from xmodal.metrics import gather
from xmodal.torch_files import read_torch

BAD_STEP = "bad_step.json"


def keep_bad_step(runner: Any, batch: dict[str, Any], random: dict[str, Any], what: str) -> str:
    """Write `bad_step.json` and, beside it, the weights and random states from before the step.

    Args:
        runner: in the step, whose weights have not moved; every process must call this.
        batch: of this process.
        random: this process's random states from before the step.
        what: is not finite.

    Returns:
        A message for the user.
    """
    loop, optimizer = runner.train_loop, runner.optim_wrapper.optimizer
    losses = [float(loss) for loss in runner.optim_wrapper.last_losses]
    mine = {
        "keys": [list(key) for key in keys_of(loop)],
        "samples": [str(name) for name in batch.get("sample_id", [])],
        "loss": sum(losses),
        "rank": runner.rank,
    }
    everyone, randoms = gather(mine), gather(random)
    guilty = next((i for i, part in enumerate(everyone) if not math.isfinite(part["loss"])), 0)
    path, step = Path(runner.work_dir) / BAD_STEP, loop.iter + 1
    entry = {
        "what": what, "step": step, "epoch": loop.epoch, "seed": runner.seed, "processes": runner.world_size,
        **everyone[guilty], "batch_split": loop.batch_split, "weights": path.with_suffix(".pt").name,
        "rates": {g.get("name", str(i)): g["lr"] for i, g in enumerate(optimizer.param_groups)},
    }  # fmt: skip
    if runner.rank == 0:
        with replacing(path.with_suffix(".pt")) as file:
            torch.save({"state_dict": own_state(runner.model), "random": randoms[guilty]}, file)
        write_text(path, json.dumps(entry, indent=1) + "\n")
    named = ", ".join(entry["samples"][:8]) + (", ..." if len(entry["samples"]) > 8 else "")
    advice = "lower lr, or use bf16 for fp16" if "gradient" in what or loop.iter else "look at the samples"
    return f"{what} in step {step} (samples {named}): {advice}; tools/train.py CONFIG --replay {path} repeats the step"


def keys_of(loop: Any) -> list[tuple[int, int]]:
    """Return the (epoch, index) keys of this process's batch in the current step."""
    position = loop.iter if loop.by_steps else loop.iter % loop.steps_per_epoch
    loop.sampler.seek(0 if loop.by_steps else loop.epoch, position * loop.batch)
    return list(islice(iter(loop.sampler), loop.batch))


def replay(runner: Any, path: str | Path) -> None:
    """Repeat the step of a `bad_step.json` under anomaly detection and print what is not finite first.

    Args:
        runner: built from the config of the run, not started; one process.
        path: the file; the weights lie beside it.

    Raises:
        ValueError: no such file, or one that this suite did not write.
    """
    try:
        entry = json.loads(Path(path).read_text())
        kept = read_torch(Path(path).with_name(entry["weights"]))
        keys = [tuple(key) for key in entry["keys"]]
        load_own_state(runner.model, kept["state_dict"], str(path))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no {BAD_STEP} of tools/train.py ({type(error).__name__}: {error})") from error
    loader, model = runner.train_loop.dataloader, bare(runner.model)
    amp = autocast(runner.device, runner.cfg.optim_wrapper.get("amp"))
    batch = loader.collate_fn([loader.dataset[key] for key in keys])
    if (names := [str(n) for n in batch.get("sample_id", [])]) != entry["samples"]:
        raise ValueError(f"{path} names the samples {entry['samples'][:3]} ..., the data has {names[:3]} ... there now")
    model.train()
    set_random_state(kept["random"])
    with watched(model) as seen, torch.autograd.set_detect_anomaly(True):
        try:
            total = sum(backward(model, amp, *piece) for piece in split(batch, entry["batch_split"]))
            print_log(f"step {entry['step']} on {batch_size(batch)} samples: the loss is {total}", logger="current")
        except RuntimeError as error:
            print_log(f"step {entry['step']}: {error}", logger="current")
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            seen.append(f"the gradient of {name}")
    found = "nothing in it is not finite" if not seen else f"not finite first: {seen[0]}"
    print_log(f"repeated step {entry['step']} ({entry['what']} then): {found}", logger="current")


def backward(model: Any, amp: Any, piece: dict[str, Any], share: float) -> float:
    """Take the forward and backward pass of a part of a batch; returns its weighted loss."""
    with amp:
        losses = model._run_forward(model.data_preprocessor(piece, True), mode="loss")
    loss, _ = model.parse_losses(losses)
    (share * loss).backward()
    return share * float(loss)


class watched:  # noqa: N801
    """Within it, the names of modules whose output is not finite are listed in order."""

    def __init__(self, model: nn.Module):
        self.seen: list[str] = []
        self.handles = [m.register_forward_hook(self.look(name)) for name, m in model.named_modules() if name]

    def look(self, name: str) -> Any:
        """Build the hook of one module."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            for value in output if isinstance(output, tuple | list) else [output]:
                if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
                    self.seen.append(f"the output of {name}")
                    return

        return hook

    def __enter__(self) -> list[str]:
        return self.seen

    def __exit__(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()
