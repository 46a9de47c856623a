"""Tip-Adapter, CaFo, LP++, TaskRes and 2SFS, with their training, from their formulas in float64."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity import _reference as r
from tests.parity._reference_clip import images, own_of, texts, unit
from tests.parity.core import Case


def cluster(case: Case, name: str, labels: list[int], centers: str = "centers") -> Tensor:
    """Class centers with noise."""
    i = case.json["inputs"]
    return r.given(case, centers)[torch.tensor(labels)] + i["noise"] * r.given(case, name)


def percent(logits: Tensor, label: Tensor) -> float:
    """Top-1."""
    return 100 * float((logits.argmax(1) == label).double().mean())


class Adam:
    """Adam, its weight decay decoupled or (`coupled`) added to the gradient."""

    def __init__(self, lr: float, decay: float, eps: float = 1e-8, coupled: bool = False):
        self.lr, self.decay, self.eps, self.coupled, self.t = lr, decay, eps, coupled, 0
        self.moments: dict[str, Any] = {}

    def step(self, own: r.State, loss: Tensor, rate: float) -> r.State:
        """New weights."""
        self.t += 1
        out, grads = {}, torch.autograd.grad(loss, list(own.values()))
        for (k, w), g in zip(own.items(), grads, strict=True):
            w = w.detach()
            g = g + self.decay * w if self.coupled else g
            m, v = self.moments.get(k, (0.0, 0.0))
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            self.moments[k] = m, v
            w = w if self.coupled else w * (1 - rate * self.decay)
            ratio = m / (1 - 0.9**self.t) / ((v / (1 - 0.999**self.t)).sqrt() + self.eps)
            out[k] = (w - rate * ratio).requires_grad_()
        return out


def cosine(lr: float, step: int, total: int, least: float = 0.0) -> float:
    """The rate of a step."""
    return least + (lr - least) * (1 + math.cos(math.pi * step / total)) / 2


def grid(scale: list[float], steps: list[int]) -> tuple[list[float], list[float]]:
    """Betas and alphas; the upper ends are never reached."""
    return tuple([0.1 + n * (top - 0.1) / k for n in range(k)] for top, k in zip(scale, steps, strict=True))  # type: ignore


def searched(scores: Callable[[float, float], Tensor], label: Tensor, a: dict[str, Any]) -> Any:
    """Accuracies (betas, alphas) and the first best pair."""
    betas, alphas = grid(a["search_scale"], a["search_step"])
    table = torch.tensor([[percent(scores(b, al), label) for al in alphas] for b in betas])
    first = int(table.flatten().argmax())
    return table, betas[first // len(alphas)], alphas[first % len(alphas)]


def tip(case: Case) -> Any:
    """Cache, search, and the training of the keys with the release's selection on the test set."""
    a, i, s = case.arch, case.json["inputs"], r.doubled(case.state())
    y, v, t = (torch.tensor(i[f"{k}_labels"]) for k in ("train", "val", "test"))
    train = cluster(case, "train_features", i["train_labels"])
    val, test = (unit(cluster(case, f"{k}_features", i[f"{k}_labels"])) for k in ("val", "test"))
    text = unit(r.given(case, "centers") + i["text_factor"] * r.given(case, "text"))
    keys, values = unit(train.mean(0)), F.one_hot(y, a["n_classes"]).double()
    start = a["init_beta"], a["init_alpha"]

    def scores(f: Tensor, keys: Tensor, beta: float, alpha: float) -> Tensor:
        return 100 * f @ text.T + alpha * torch.exp(-(beta - beta * f @ keys.T)) @ values

    zero = 100 * val @ text.T, 100 * test @ text.T
    table, beta, alpha = searched(lambda b, al: scores(val, keys, b, al), v, a)
    betas, alphas = grid(a["search_scale"], a["search_step"])
    found: dict[str, Any] = {
        "cache_keys": keys.T,
        "cache_values": values,
        "clip_weights": text.T,
        "grid_val_acc": table,
    }
    found |= {"zeroshot_val_logits": zero[0], "zeroshot_test_logits": zero[1]}
    found |= {"best_beta": beta, "best_alpha": alpha}
    found |= {"init_val_logits": scores(val, keys, *start), "tip_test_logits": scores(test, keys, beta, alpha)}
    found |= {"beta_list": betas, "alpha_list": alphas, "best_val_acc": table.max()}
    pairs = ((zero[0], v), (found["init_val_logits"], v), (zero[1], t), (found["tip_test_logits"], t))
    found["accs"] = [percent(*pair) for pair in pairs]
    forward = scores(test, s["adapter.weight"], *start)
    parts = list(zip(unit(train[0]).split(a["batch_size"]), y.split(a["batch_size"]), strict=True))
    total, step, own = a["train_epoch"] * len(parts), 0, {"adapter.weight": keys.clone().requires_grad_()}
    adam, best, kept, logits = Adam(a["lr"], a["adamw_weight_decay"], a["adamw_eps"]), 0.0, keys, []
    for _ in range(a["train_epoch"]):
        for x, label in parts:
            loss = F.cross_entropy(scores(x, own["adapter.weight"], *start), label)
            own, step = adam.step(own, loss, cosine(a["lr"], step, total)), step + 1
        logits.append(scores(test, own["adapter.weight"], *start))
        if percent(logits[-1], t) > best:
            best, kept = percent(logits[-1], t), own["adapter.weight"]
    _, beta, alpha = searched(lambda b, al: scores(val, kept, b, al), v, a)
    final = scores(test, kept, beta, alpha)
    found |= {"F_forward_logits": forward, "F_epoch_test_logits": torch.stack(logits), "F_best_weight": kept}
    found |= {"F_epoch_test_acc": [percent(x, t) for x in logits], "F_best_beta": beta, "F_best_alpha": alpha}
    found |= {"F_final_test_logits": final, "F_final_test_acc": percent(final, t)}
    found["F_aliased_cache_keys_norm"] = own["adapter.weight"].norm()
    return tensors(found), {"grad:": (r.cotangent(case, forward), {"adapter.weight": s["adapter.weight"]})}


def tensors(found: dict[str, Any]) -> dict[str, Tensor]:
    """Numbers and lists as tensors."""
    return {k: v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.double) for k, v in found.items()}


def fused(zero: Tensor, caches: list[Tensor], mode: str = "mean") -> Tensor:
    """Caches weighted by how much they agree with the zero-shot logits."""
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
        "linear": lambda x: x / x.norm(dim=1, keepdim=True),
        "softmax": lambda x: x.softmax(1),
    }
    zero, *caches = (kinds[mode](x) for x in (zero, *caches))
    weight = torch.stack([(x * zero).sum(1) for x in caches]).softmax(0)
    return sum((w[:, None] * x for w, x in zip(weight, caches, strict=True)), torch.zeros(()))


def cafo(case: Case) -> Any:
    """Two caches and their fusion."""
    a, i, s = case.arch, case.json["inputs"], r.doubled(case.state())
    both = lambda k: [unit(cluster(case, f"{e}_{k}", i[f"{k}_labels"], f"{e}_centers")) for e in ("clip", "dino")]  # noqa: E731
    i["keys_labels"] = i["cache_labels"]
    keys, val, test = both("keys"), both("val"), both("test")
    text = unit(r.given(case, "clip_centers") + i["text_factor"] * r.given(case, "text"))
    values = F.one_hot(torch.tensor(i["cache_labels"]), a["n_classes"]).double()
    own = [s["clip_adapter.weight"], s["dino_adapter.weight"]]

    def cached(f: list[Tensor], keys: list[Tensor], beta: float) -> list[Tensor]:
        return [torch.exp(-(beta - beta * x @ k.T)) @ values for x, k in zip(f, keys, strict=True)]

    def scores(f: list[Tensor], keys: list[Tensor], beta: float, alpha: float) -> Tensor:
        zero = 100 * f[0] @ text.T
        return zero + alpha * fused(zero, cached(f, keys, beta))

    zero, caches = 100 * test[0] @ text.T, cached(test, own, a["init_beta"])
    logits = scores(test, own, a["init_beta"], a["init_alpha"])
    table, beta, alpha = searched(lambda b, al: scores(val, keys, b, al), torch.tensor(i["val_labels"]), a)
    found = {"clip_cache_logits": caches[0], "dino_cache_logits": caches[1], "clip_logits": zero}
    found |= {"fused_logits": fused(zero, caches), "ensemble_logits": logits, "grid_val_acc": table}
    found |= {f"fused_logits_{m}": fused(zero, caches, m) for m in ("softmax", "linear")}
    found["untrained_ensemble_logits_best"] = scores(test, keys, beta, alpha)
    return tensors(found | {"best_beta": beta, "best_alpha": alpha}), {"grad:": (r.cotangent(case, logits), s)}


def lp(case: Case) -> Any:
    """LP++ with the released (never cleared) and with the intended gradient of alpha."""
    a, i, found = case.arch, case.json["inputs"], {}
    label = {k: torch.tensor(i[f"{k}_labels"]) for k in ("train", "val", "test")}
    f = {k: unit(cluster(case, f"{k}_features", i[f"{k}_labels"])) for k in label}
    text = unit(r.given(case, "centers") + i["text_factor"] * r.given(case, "text"))
    x, y, n = f["train"], label["train"], len(label["train"])
    weight = torch.stack([x[y == c].sum(0) for c in range(a["n_classes"])])
    cosines = torch.stack([(x[y == c] @ text[c]).mean() for c in range(a["n_classes"])])
    rate = 4 * n / torch.linalg.eigvalsh(x.T @ x).max()
    small = n / (4 * (x @ text.T).square().sum(0).max())
    first = a["alpha_factor"] * cosines.mean()
    found |= {"lr_w": rate, "lr_alpha": small, "alpha_init": first, "weight_init": weight}
    for tag in ("", "fixed."):
        own = {"w": weight, "b": r.doubled(case.state())["classifier.bias"].detach()}
        alpha, gathered, speed = first.expand(a["n_classes"]), 0.0, {"w": 0.0, "b": 0.0}
        logits = lambda z, own=own, alpha=alpha: z @ own["w"].T + own["b"] + z @ text.T * alpha  # noqa: E731
        losses, alphas, scores, tests = [], [], [], []
        for epoch in range(a["train_epoch"]):
            live = {k: v.detach().requires_grad_() for k, v in {**own, "alpha": alpha}.items()}
            loss = F.cross_entropy(x @ live["w"].T + live["b"] + x @ text.T * live["alpha"], y)
            grads = dict(zip(live, torch.autograd.grad(loss, list(live.values())), strict=True))
            losses.append(loss.detach())
            alphas.append(alpha)
            gathered = grads["alpha"] if tag else gathered + grads["alpha"]
            speed = {k: a["momentum"] * v + grads[k] for k, v in speed.items()}
            own = {k: v - rate * speed[k] for k, v in own.items()}
            if (epoch + 1) % a["alpha_every"] == 0:
                alpha = alpha - small * gathered
            logits = lambda z, own=own, alpha=alpha: z @ own["w"].T + own["b"] + z @ text.T * alpha  # noqa: E731
            scores.append(percent(logits(f["val"]), label["val"]))
            tests.append(percent(logits(f["test"]), label["test"]))
        best = max(e for e, score in enumerate(scores) if score == max(scores))
        more = {"losses": torch.stack(losses), "alpha_final_after": alpha, "weight_after": own["w"]}
        more |= {"alpha_at_epochs_after": torch.stack([alphas[e] for e in a["shown"]]), "bias_after": own["b"]}
        more |= {"val_logits_after": logits(f["val"]), "test_logits_after": logits(f["test"]), "val_acc": scores}
        more |= {"best_epoch": best, "test_acc_at_best": tests[best]}
        found |= {f"{tag}{k}": v for k, v in more.items()}
    return tensors(found), {}


def batches(case: Case, s: r.State, a: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Features of the training images and their labels, without gradient."""
    labels = case.json["inputs"]["train_labels"]
    return [(r.given(case, f"train_image_{n}"), torch.tensor(y)) for n, y in enumerate(labels)]


def taskres(case: Case) -> Any:
    """Residuals on raw text features, and their training."""
    a, t, s = case.arch, case.json["training"], r.doubled(case.state())
    (key, shape), arrays, losses = next(iter(case.json["trainable"].items())), {}, {}
    image, ids = images(s, a, r.given(case)), torch.tensor(case.json["inputs"]["template_tokens"])
    warm = t["warmup_epochs"]
    rates = [
        t["warmup_cons_lr"] if e < warm else cosine(t["lr"], e - warm, t["max_epoch"]) for e in range(t["max_epoch"])
    ]
    seen = [(images(s, a, x).detach(), y) for x, y in batches(case, s, a)]
    for tag in case.json["variants"]:
        given = dict(s)
        if tag == "enhanced":
            given["text_projection"] = own_of(case, case.json["extra_state"])["weight"].T
        base = torch.stack([texts(given, a, rows) for rows in ids]).mean(0).detach()
        scores = lambda f, x, base=base: s["logit_scale"].exp() * unit(f) @ unit(base + a["residual_scale"] * x).T  # noqa: E731
        own = own_of(case, {key: shape})
        logits = scores(image, own[key])
        losses[f"grad:{tag}."] = r.cotangent(case, logits), own
        now, adam, steps = (
            {key: torch.zeros_like(base).requires_grad_()},
            Adam(t["lr"], t["weight_decay"], coupled=True),
            [],
        )
        arrays |= {f"{tag}.base_text_features": base, f"{tag}.logits": logits}
        arrays[f"{tag}.zero_residual_logits"] = scores(image, now[key])
        for rate in rates:
            for f, y in seen:
                loss = F.cross_entropy(scores(f, now[key]), y)
                steps.append(loss.detach())
                now = adam.step(now, loss, rate)
        arrays |= {f"{tag}.train_step_losses": torch.stack(steps), f"{tag}.residual_after_training": now[key]}
        arrays[f"{tag}.logits_after_training"] = scores(image, now[key])
    return arrays | {"lr_per_epoch": torch.tensor(rates)}, losses


def two_stage_keys(v: dict[str, Any], a: dict[str, Any]) -> Iterable[str]:
    """What the first stage trains: norms of the chosen blocks, or all biases but those of the packed projection."""
    towers = {"vision": ("visual.transformer", a["vision_layers"]), "text": ("transformer", a["text_layers"])}
    for name in towers if v["ln_modality"] == "both" else [v["ln_modality"]]:
        at, depth = towers[name]
        for i in range(v[f"ln_{name}_start"] if v["peft"] == "ln" else 0, depth):
            parts = (
                ("ln_1", "ln_2") if v["peft"] == "ln" else ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
            )
            for part in parts:
                yield from (f"{at}.resblocks.{i}.{part}.{w}" for w in ("weight", "bias")[v["peft"] == "bitfit" :])
        if v["peft"] == "bitfit":
            yield from ("visual.ln_pre.bias", "visual.ln_post.bias") if name == "vision" else ("ln_final.bias",)


def two_stage(case: Case) -> Any:
    """Both stages, and inference on known and new classes."""
    a, s, arrays = case.arch, r.doubled(case.state()), {}
    ids, base, seen = torch.tensor(case.json["inputs"]["tokens"]), case.arch["n_base"], batches(case, {}, {})
    scale = s["logit_scale"].exp().detach()
    for tag, v in case.json["variants"].items():
        own = {k: s[k].detach().requires_grad_() for k in v["trained_in_stage1"]}
        start, first, rest = own, v["stage1_steps"], v["total_steps"] - v["stage1_steps"]
        steps, adam = [], Adam(v["lr"], v["wd"])
        rates = [cosine(v["lr"], n, total, 1e-6) for total in (first, rest) for n in range(total)]
        for n in range(first):
            now, (x, y) = s | own, seen[n % len(seen)]
            loss = F.cross_entropy(scale * unit(images(now, a, x)) @ unit(texts(now, a, ids[:base])).T, y)
            steps.append(loss.detach())
            own = adam.step(own, loss, rates[n])
        now = {k: t.detach() for k, t in (s | own).items()}
        arrays |= {f"norm_after_stage1:{tag}.{k}": (t - start[k]).norm() for k, t in own.items()}
        rows = {"c": unit(texts(now, a, ids[:base])).requires_grad_()}
        arrays[f"{tag}.classifier_init_after_stage1"], adam = rows["c"], Adam(v["lr"], v["wd"])
        for n in range(rest):
            x, y = seen[n % len(seen)]
            loss = F.cross_entropy(scale * unit(images(now, a, x)) @ unit(rows["c"]).T, y)
            steps.append(loss.detach())
            rows = adam.step(rows, loss, rates[first + n])
        image, new = unit(images(now, a, r.given(case))), unit(texts(now, a, ids[base:]))
        arrays |= {f"{tag}.step_losses": torch.stack(steps), f"{tag}.classifier_after": rows["c"]}
        arrays |= {f"{tag}.lr_per_step": torch.tensor(rates), f"{tag}.new_logits_after": scale * image @ new.T}
        arrays[f"{tag}.base_logits_after"] = scale * image @ unit(rows["c"]).T
        arrays[f"{tag}.all_logits_after"] = scale * image @ torch.cat([unit(rows["c"]), new]).T
    return arrays, {}
