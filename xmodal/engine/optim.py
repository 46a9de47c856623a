"""Group the trained weights by rate and weight decay, and step them in any precision on any device."""

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper as StockOptimWrapper
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn

from xmodal.engine.checkpoint import bare
from xmodal.engine.precision import autocast, check_amp
from xmodal.registry import build, check_arguments, did_you_mean, resolve

MAX_SKIPS = 20  # steps in a row that the loss scale of fp16 may skip
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


class NotFiniteError(FloatingPointError):
    """Raised before an optimizer step when the loss or a gradient is not finite; `what` says which."""

    def __init__(self, what: str):
        super().__init__(what)
        self.what = what


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = (),
    lr_mult: dict[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Put the trained weights of a model into as few groups as the rules allow.

    Args:
        model: frozen weights are left out.
        lr: base rate.
        weight_decay: of everything that no rule exempts.
        no_decay: weights without decay: `norm` for those of normalization layers, anything else is part of a name
            (`.bias`, `cls_token`).
        lr_mult: module prefix -> factor on the rate (`{"encoder": 0.05}`); the longest prefix wins.

    Returns:
        Groups with `name`, `params`, `names`, `lr`, `weight_decay`.

    Raises:
        ValueError: nothing trains, or a prefix with nothing trained below it.
    """
    lr_mult = dict(lr_mult or {})
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing trains: the model has no weight with requires_grad")
    for prefix in lr_mult:
        if not any(_below(name, prefix) for name, _ in trained):
            known = {".".join(name.split(".")[:n]) for name, _ in trained for n in (1, 2)}
            raise ValueError(f"lr_mult: nothing that trains is below {prefix!r}; {did_you_mean(prefix, known)}")
    own = getattr(model, "own_rates", {})  # of a grid of probes: module prefix -> lr and weight_decay
    norms = _norm_weights(model)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in trained:
        part = max((p for p in (*lr_mult, *own) if _below(name, p)), key=len, default="")
        free = any(name in norms if rule == "norm" else rule in name for rule in no_decay)
        group = groups.setdefault((part, free), {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    for (part, free), group in groups.items():
        factor = f" x{lr_mult[part]:g}" if part in lr_mult else ""
        group["name"] = (f"{part}{factor}" if part else "trained") + (", no decay" if free else "")
        group["lr"] = own.get(part, {}).get("lr", lr) * lr_mult.get(part, 1.0)
        group["weight_decay"] = 0.0 if free else own.get(part, {}).get("weight_decay", weight_decay)
    return list(groups.values())


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _norm_weights(model: nn.Module) -> set[str]:
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, NORMS) or "Norm" in type(module).__name__:
            found |= {f"{name}.{key}" if name else key for key, _ in module.named_parameters(recurse=False)}
    return found


def table(groups: Sequence[dict[str, Any]]) -> str:
    """Format parameter groups as a table."""
    rows = [("group", "lr", "decay", "tensors", "weights")]
    for group in groups:
        size = sum(p.numel() for p in group["params"])
        rate = group.get("initial_lr", group["lr"])
        rows.append(
            (group["name"], f"{rate:.3g}", f"{group['weight_decay']:g}", str(len(group["params"])), f"{size:,}")
        )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [[row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)] for row in rows]
    return "\n".join("  ".join(line) for line in lines)


class OptimWrapper(StockOptimWrapper):
    """Backward pass and optimizer step in any precision on any device, over a batch that may come in parts.

    Why: mmengine's AmpOptimWrapper asserts a GPU and scales bf16 losses; its accumulation counts loader iterations,
    which schedules, checkpoints and logs then count too. Until: both change.

    No step is taken on a loss or a gradient that is not finite, on any process. Under fp16 the loss scale skips such
    steps, up to 20 in a row.

    Attributes:
        wants_stop: asked before each step whether this process was told to stop.
        stop_agreed: some process was; the same on all of them.

    Args:
        optimizer: the optimizer.
        clip_grad: arguments of `clip_grad_norm_`, or of `clip_grad_value_` with `type="value"`.
        amp: `bf16`, `fp16` (GPU) or None.
        accumulative_counts: refused; `train_cfg.batch_split` is what does this here.
    """

    def __init__(
        self, optimizer: Any, clip_grad: dict | None = None, amp: str | None = None, accumulative_counts: int = 1
    ):
        if accumulative_counts != 1:
            raise ValueError(
                f"accumulative_counts={accumulative_counts}: here an iteration is an optimizer step; give the whole "
                f"batch as batch_size and set train_cfg.batch_split={accumulative_counts}"
            )
        super().__init__(optimizer, clip_grad=dict(clip_grad) if clip_grad else None)
        self.device = optimizer.param_groups[0]["params"][0].device
        check_amp(amp, self.device.type)
        self.amp = amp
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.grad_norm: Tensor | None = None
        self.wants_stop: Callable[[], bool] = lambda: False
        self.stop_agreed, self.skips = False, 0
        self.losses: list[Tensor] = []  # of the parts of this step
        self.begin(1.0, last=True)

    def begin(self, share: float, last: bool) -> None:
        """Announce a part of a batch: its share of the samples, and whether the step follows."""
        self.share, self.last = share, last

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Nothing to count."""

    def should_update(self) -> bool:
        """Return whether this part is the last of its batch."""
        return self.last

    def should_sync(self) -> bool:
        """Return whether gradients are averaged over processes after this part."""
        return self.last

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Weigh a part by its share."""
        return loss * self.share

    @contextmanager
    def optim_context(self, model: nn.Module) -> Any:
        """Autocast around the forward pass; no gradient exchange before the last part."""
        with super().optim_context(model), autocast(self.device, self.amp):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backward pass of the scaled loss."""
        self.losses.append(loss.detach())
        self.scaler.scale(loss).backward(**kwargs)

    def step(self, **kwargs: Any) -> None:
        """Check, clip, then step.

        Raises:
            NotFiniteError: the loss or a gradient is not finite; nothing has moved.
        """
        self.scaler.unscale_(self.optimizer)
        named = [pair for g in self.optimizer.param_groups for pair in zip(names_of(g), g["params"], strict=True)]
        trained = {name: p for name, p in named if p.grad is not None}
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained.values()])
        if self.all_finite(norm):
            self.skips = 0
        elif self.amp == "fp16" and self.skips < MAX_SKIPS:
            self.skips += 1
            self.scaler.update()
            return
        else:
            raise NotFiniteError(self.blame(trained))
        if self.clip_grad_kwargs:
            # Why: mmengine's syncs the GPU each step and appends to a HistoryBuffer. Until: update_scalar is O(1)
            self.grad_norm = self.clip_func(list(trained.values()), **self.clip_grad_kwargs)
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    def all_finite(self, norm: Tensor) -> bool:
        """Return whether loss and gradients are finite on all processes; also agrees on stopping. One sync a step."""
        finite = torch.isfinite(torch.stack([loss.float() for loss in self.losses])).all() & torch.isfinite(norm)
        stop = torch.full_like(finite, self.wants_stop())
        votes = torch.stack([~finite, stop]).int()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        bad, self.stop_agreed = map(bool, votes.tolist())
        self.last_losses, self.losses = self.losses, []
        return not bad

    def blame(self, trained: dict[str, Any]) -> str:
        """Say what is not finite."""
        loss = sum(float(part) for part in self.last_losses)
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        bad = [name for name, p in trained.items() if not bool(torch.isfinite(p.grad).all())]
        more = f" (and {len(bad) - 1} others)" if len(bad) > 1 else ""
        return f"the gradient of {bad[0]}{more} is not finite" if bad else "the loss of another process is not finite"

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer and of the loss scale, with the names of the weights in each group."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it.

        Raises:
            ValueError: the groups hold other weights.
        """
        mine = [dict(group) for group in self.optimizer.param_groups]
        for here, there in zip(mine, state["optimizer"]["param_groups"], strict=False):
            if here.get("names") != there.get("names"):
                raise ValueError("the optimizer groups of the checkpoint hold other weights than this config's")
        self.optimizer.load_state_dict(state["optimizer"])
        for group, here in zip(self.optimizer.param_groups, mine, strict=True):
            base, before = here.get("initial_lr", here["lr"]), group.get("initial_lr", group["lr"])
            if base != before:  # rates given anew take effect from here on
                group["lr"] *= base / before
                group["initial_lr"] = base
            group["weight_decay"] = here.get("weight_decay", 0.0)
            if "fused" in here:
                group["fused"] = here["fused"]  # a matter of the device, not of the run
        self.scaler.load_state_dict(state["scaler"])


def names_of(group: dict[str, Any]) -> Sequence[str]:
    """Return the names of a group's weights, numbers where it has none."""
    return group.get("names") or [f"weight {i}" for i in range(len(group["params"]))]


class TrainedGroups:
    """Build the optimizer and its wrapper from a config; `paramwise_cfg` holds `no_decay` and `lr_mult`.

    torch's optimizers run fused on CUDA, unless the config sets `fused` or `foreach` of `optim_wrapper.optimizer`.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None):
        self.cfg, self.rules = dict(optim_wrapper_cfg), dict(paramwise_cfg or {})
        for key in self.rules:
            if key not in ("no_decay", "lr_mult"):
                raise ValueError(f"paramwise_cfg has no {key!r}; {did_you_mean(key, ['no_decay', 'lr_mult'])}")

    def __call__(self, model: nn.Module, say: bool = True) -> OptimWrapper:
        """Build the optimizer and its wrapper, and print the table unless `say` is False."""
        cfg = dict(self.cfg.pop("optimizer"))
        kind = resolve(cfg.pop("type"), OPTIMIZERS)
        check_arguments(kind, cfg)
        if "lr" not in cfg:
            raise ValueError("optim_wrapper.optimizer needs lr")
        groups = param_groups(bare(model), cfg["lr"], cfg.get("weight_decay", 0.0), **self.rules)
        if say:
            print_log("Optimizer groups\n" + table(groups), logger="current")
        if "fused" in inspect.signature(kind).parameters and not {"fused", "foreach"} & set(cfg):
            on_cuda = all(p.device.type == "cuda" and p.is_floating_point() for g in groups for p in g["params"])
            cfg["fused"] = on_cuda or None  # one kernel for all weights
        wrapper = {"type": OptimWrapper, **self.cfg}
        return build(wrapper, OPTIMIZERS, optimizer=kind(groups, **cfg))
