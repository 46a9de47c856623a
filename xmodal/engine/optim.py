"""Optimizer groups: only what trains, merged by rate and weight decay, shown once as a table."""

from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from torch import nn

from xmodal.engine.checkpoint import bare
from xmodal.engine.compat import OptimWrapper
from xmodal.registry import build, check_arguments, did_you_mean, resolve

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


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
        no_decay: weights without decay: `norm` for those of normalisation layers, anything else is part of a name
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
    norms = _norm_weights(model)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in trained:
        part = max((p for p in lr_mult if _below(name, p)), key=len, default="")
        free = any(name in norms if rule == "norm" else rule in name for rule in no_decay)
        group = groups.setdefault((part, free), {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    for (part, free), group in groups.items():
        group["name"] = (f"{part} x{lr_mult[part]:g}" if part else "trained") + (", no decay" if free else "")
        group["lr"] = lr * (lr_mult[part] if part else 1.0)
        group["weight_decay"] = 0.0 if free else weight_decay
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
    """The groups as lines of text."""
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


class TrainedGroups:
    """What mmengine calls an optimizer wrapper constructor; `paramwise_cfg` holds `no_decay` and `lr_mult`."""

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None):
        self.cfg, self.rules = dict(optim_wrapper_cfg), dict(paramwise_cfg or {})
        for key in self.rules:
            if key not in ("no_decay", "lr_mult"):
                raise ValueError(f"paramwise_cfg has no {key!r}; {did_you_mean(key, ['no_decay', 'lr_mult'])}")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper, and print the table."""
        cfg = dict(self.cfg.pop("optimizer"))
        kind = resolve(cfg.pop("type"), OPTIMIZERS)
        check_arguments(kind, cfg)
        if "lr" not in cfg:
            raise ValueError("optim_wrapper.optimizer needs lr")
        groups = param_groups(bare(model), cfg["lr"], cfg.get("weight_decay", 0.0), **self.rules)
        print_log("Optimizer groups\n" + table(groups), logger="current")
        wrapper = {"type": OptimWrapper, **self.cfg}
        return build(wrapper, OPTIMIZERS, optimizer=kind(groups, **cfg))
