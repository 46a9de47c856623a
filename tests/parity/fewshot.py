"""Samplers, schedules and cache methods of the few-shot protocols."""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.core import Case, builder, grad_norms
from xmodal.evaluation.fit import fit_keys, learning_rates
from xmodal.evaluation.sampling import base_and_new, draw_coop, draw_tip, relabel
from xmodal.heads.base import unit
from xmodal.heads.cache import build_cache, search_grid
from xmodal.heads.cafo import CaFoHead, fuse
from xmodal.heads.tip_adapter import TipAdapterHead


@builder("fewshot_protocol")
def fewshot_protocol_case(case: Case) -> dict[str, Any]:
    """Indices of few-shot samples, the base-to-new split and the rate of every epoch."""
    train, val = case.json["inputs"]["train_labels"], case.json["inputs"]["val_labels"]
    out: dict[str, Any] = {}
    for row in case.arch["cases"]:
        chosen, checked = draw_coop(train, val, row["shots"], row["seed"])
        name = f"coop.shot{row['shots']}.seed{row['seed']}"
        out |= {
            f"{name}.train": chosen,
            f"{name}.val": checked,
            f"tip.shot{row['shots']}.train": draw_tip(train, row["shots"]),
        }
    for name, keep in zip(("base", "new"), base_and_new(train), strict=True):
        out[f"{name}.train_idx"], out[f"{name}.train_label"] = relabel(train, keep)
    for name, s in case.arch["schedules"].items():
        rates = learning_rates(
            s["lr"],
            s["epochs"],
            s["warmup_epochs"],
            s["warmup_type"],
            s["warmup_cons_or_min_lr"],
            s.get("cosine_T_max"),
            s.get("warmup_recount", True),
        )
        out[f"lr.{name}"] = np.array(rates, np.float32)
    return out


def cluster(case: Case, name: str, labels: list[int], centers: str = "centers") -> Tensor:
    """Features around class centers: centers[label] + noise * filled input."""
    middle = case.input(centers)[torch.tensor(labels)]
    return middle + case.json["inputs"]["noise"] * case.input(name)


def number(value: Any, default: float) -> float:
    """A number of a case, or the default where it is prose."""
    return float(value) if isinstance(value, int | float) else default


def text_factor(i: dict[str, Any]) -> float:
    """What a case says, also in prose: centers + 2*text."""
    said = re.search(r"centers *\+ *([\d.]+) *\* *text", str(i.get("how", "")))
    return i.get("text_factor", float(said[1]) if said else 1.0)


def percent(logits: Tensor, label: Tensor) -> float:
    """Top-1 accuracy."""
    return float((logits.argmax(1) == label).float().mean() * 100)


@builder("tip_adapter")
def tip_adapter_case(case: Case) -> dict[str, Any]:
    """Cache, search, logits, and the training of the keys."""
    a, i = case.arch, case.json["inputs"]
    y, v, t = (torch.tensor(i[f"{k}_labels"]) for k in ("train", "val", "test"))
    train = cluster(case, "train_features", i["train_labels"])  # (A, N, D)
    val, test = (cluster(case, f"{k}_features", i[f"{k}_labels"]) for k in ("val", "test"))  # the head normalizes
    text = unit(case.input("centers") + text_factor(i) * case.input("text"))  # (K, D)
    names = [str(k) for k in range(a["n_classes"])]
    head = TipAdapterHead.from_shots(train, y, text, names, alpha=a["init_alpha"], beta=a["init_beta"])
    out = {"cache_keys": head.keys.detach().t(), "cache_values": head.values, "clip_weights": text.t()}
    with torch.no_grad():
        out |= {"zeroshot_val_logits": head.zero_shot(val), "zeroshot_test_logits": head.zero_shot(test)}
        out["init_val_logits"] = head(val)
    found = head.search(val, v, a["search_scale"], a["search_step"])
    with torch.no_grad():
        out["tip_test_logits"] = head(test)
    out |= {"grid_val_acc": found.grid, "beta_list": np.float32(found.betas), "alpha_list": np.float32(found.alphas)}
    out |= {"best_beta": found.beta, "best_alpha": found.alpha, "best_val_acc": found.accuracy}
    logits = (out["zeroshot_val_logits"], out["init_val_logits"]), (out["zeroshot_test_logits"], out["tip_test_logits"])
    out["accs"] = np.float32([percent(x, label) for pair, label in zip(logits, (v, t), strict=True) for x in pair])
    out |= tip_forward(case, head, test) | tip_training(case, head, train, (y, v, t), val, test)
    return {k: x.numpy() if isinstance(x, Tensor) else x for k, x in out.items()}


def tip_forward(case: Case, head: TipAdapterHead, test: Tensor) -> dict[str, Any]:
    """Logits and gradient with filled keys and the initial alpha and beta."""
    own = TipAdapterHead(
        head.keys.shape[1],
        head.class_names,
        head.text_features,
        case.state()["adapter.weight"],
        head.values,
        alpha=case.arch["init_alpha"],
        beta=case.arch["init_beta"],
        train_keys=True,
    )
    logits = own(test)
    grads = grad_norms((logits * case.cotangent(logits.shape)).sum(), {"adapter.weight": own.keys})
    return {"F_forward_logits": logits.detach()} | grads


def tip_training(
    case: Case, head: TipAdapterHead, train: Tensor, labels: Any, val: Tensor, test: Tensor
) -> dict[str, Any]:
    """Tip-Adapter-F with the release's selection: the best epoch on the test set."""
    a, (y, v, t) = case.arch, labels
    keys, values = build_cache(train, y, head.num_classes)
    tuned = TipAdapterHead(
        keys.shape[1], head.class_names, head.text_features, keys, values, alpha=a["init_alpha"], beta=a["init_beta"]
    )
    size = a["batch_size"]

    def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
        return list(zip(train[0].split(size), y.split(size), strict=True))

    done = fit_keys(
        tuned,
        [tuned.keys],
        batches,
        a["train_epoch"],
        a["lr"],
        a["adamw_eps"],
        number(a.get("adamw_weight_decay"), 0.01),
        score=lambda: percent(tuned(test), t),
        watch=lambda: tuned(test),
    )
    found = tuned.search(val, v, a["search_scale"], a["search_step"])
    with torch.no_grad():
        final = tuned(test)
    return {
        "F_epoch_test_logits": torch.stack(done.watched),
        "F_epoch_test_acc": np.float32([percent(x, t) for x in done.watched]),
        "F_best_weight": tuned.keys.detach(),
        "F_best_beta": found.beta,
        "F_best_alpha": found.alpha,
        "F_final_test_logits": final,
        "F_final_test_acc": percent(final, t),
        "F_aliased_cache_keys_norm": float(done.last[0].norm()),
    }


@builder("cafo")
def cafo_case(case: Case) -> dict[str, Any]:
    """Two caches, their fusion in every mode, and the search with untrained keys."""
    a, i = case.arch, case.json["inputs"]
    label = {k: i[f"{k}_labels"] for k in ("cache", "val", "test")}
    both = lambda part, y: tuple(  # noqa: E731
        cluster(case, f"{e}_{part}", y, f"{e}_centers") for e in ("clip", "dino")
    )
    keys = [unit(k) for k in both("keys", label["cache"])]
    val, test = both("val", label["val"]), both("test", label["test"])  # the head normalizes
    text = unit(case.input("clip_centers") + text_factor(i) * case.input("text"))
    names = [str(k) for k in range(a["n_classes"])]
    _, values = build_cache(keys[0], torch.tensor(label["cache"]), len(names))
    state = case.state()
    numbers = dict(alpha=a["init_alpha"], beta=a["init_beta"])
    own = [state[f"{e}_adapter.weight"] for e in ("clip", "dino")]
    head = CaFoHead(keys[0].shape[1], names, text, *own, values, **numbers, train_keys=True)
    logits = head(test)
    base = head.zero_shot(test[0])
    out = {f"{e}_cache_logits": c for e, c in zip(("clip", "dino"), head.cached(test), strict=True)}
    caches = list(out.values())
    out |= {"clip_logits": base, "fused_logits": fuse(base, caches), "ensemble_logits": logits}
    out |= {f"fused_logits_{m}": fuse(base, caches, m) for m in ("softmax", "linear")}
    tensors = {"clip_adapter.weight": head.keys, "dino_adapter.weight": head.second_keys}
    grads = grad_norms((logits * case.cotangent(logits.shape)).sum(), tensors)
    plain = CaFoHead(keys[0].shape[1], names, text, *keys, values, **numbers)
    found = plain.search(val, torch.tensor(label["val"]), a["search_scale"], a["search_step"])
    assert search_grid(a["search_scale"], a["search_step"])[0] == found.betas
    out |= {"grid_val_acc": found.grid, "untrained_ensemble_logits_best": plain(test)}
    arrays = {k: x.detach().numpy() for k, x in out.items()}
    return arrays | grads | {"best_beta": found.beta, "best_alpha": found.alpha}
