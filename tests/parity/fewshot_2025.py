"""Few-shot methods on features and their samplers: TaskRes, LP++, ProLIP."""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.clip_family import class_names, clip_of, cotangent_loss
from tests.parity.core import Case, builder, grad_norms, tagged
from tests.parity.fewshot import cluster, percent
from tests.parity.fill import fill_array
from xmodal.evaluation.feature_fits import fit_lp, fit_prolip, lipschitz_steps, search_prolip
from xmodal.evaluation.fit import fit, learning_rates
from xmodal.evaluation.sampling import draw_both, draw_from_one, draw_reduced
from xmodal.heads.base import unit
from xmodal.heads.lp_plus_plus import LPPlusPlusHead
from xmodal.heads.prolip import ProLIPHead
from xmodal.heads.taskres import TaskResHead


def arrays(found: dict[str, Any]) -> dict[str, Any]:
    """Tensors as arrays."""
    return {k: v.detach().numpy() if isinstance(v, Tensor) else v for k, v in found.items()}


def filled(case: Case, key: str, shape: Any) -> Tensor:
    """A tensor filled by its official key."""
    return torch.from_numpy(np.array(fill_array(key, shape, case.seed)))


def batches_of(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Training batches of images and labels."""
    labels = case.json["inputs"]["train_labels"]
    return [(case.input(f"train_image_{i}"), torch.tensor(y)) for i, y in enumerate(labels)]


def dassl_rates(t: Any) -> list[float]:
    """The rate of every epoch."""
    return learning_rates(t["lr"], t["max_epoch"], t["warmup_epochs"], "constant", t["warmup_cons_lr"])


@builder("taskres")
def taskres_case(case: Case) -> dict[str, Any]:
    """Base features, logits, gradients and training of every variant."""
    t, clip, out = case.json["training"], clip_of(case), {}
    ids = torch.tensor(case.json["inputs"]["template_tokens"])
    key, shape = next(iter(case.json["trainable"].items()))
    images = clip.encode_image(case.input("image"))
    for tag, about in case.json["variants"].items():
        said = about.get("text_projection", "extra_state" if tag.startswith("enhanced") else "")
        extra = next(iter(case.json["extra_state"].items())) if "extra_state" in said else None
        weight = filled(case, *extra) if extra else None
        head = TaskResHead(clip.out_dim, class_names(ids.shape[1]), clip, alpha=case.arch["residual_scale"],
                           projection=weight, template_ids=ids)  # fmt: skip
        found = {"base_text_features": head.base, "zero_residual_logits": head(images)}
        head.residual.data.copy_(filled(case, key, shape))
        logits = found["logits"] = head(images)
        out |= grad_norms(cotangent_loss(case, logits), {key: head.residual}, f"grad:{tag}.")
        head.residual.data.zero_()
        batches = [(clip.encode_image(x), y) for x, y in batches_of(case)]
        losses: list[float] = []

        def loss(batch: Any, head: Any = head, losses: Any = losses) -> Tensor:
            value = head.loss(*batch)["loss"]
            losses.append(float(value.detach()))
            return value

        optimizer = torch.optim.Adam([head.residual], t["lr"], weight_decay=t["weight_decay"])
        fit(t["max_epoch"], lambda epoch, b=batches: b, loss, [optimizer], [dassl_rates(t)])
        found |= {"train_step_losses": np.float32(losses), "residual_after_training": head.residual,
                  "logits_after_training": head(images)}  # fmt: skip
        out |= tagged(tag, arrays(found))
    return out | {"lr_per_epoch": np.float32(dassl_rates(t))}


@builder("lp_plus_plus")
def lp_plus_plus_case(case: Case) -> dict[str, Any]:
    """The start, and training with the released and with the intended gradient of alpha."""
    a, i = case.arch, case.json["inputs"]
    label = {k: torch.tensor(i[f"{k}_labels"]) for k in ("train", "val", "test")}
    feature = {k: unit(cluster(case, f"{k}_features", i[f"{k}_labels"])) for k in label}
    text = unit(case.input("centers") + i["text_factor"] * case.input("text"))
    start = LPPlusPlusHead.from_shots(feature["train"], label["train"], text, class_names(len(text)), a["alpha_factor"])
    rates = lipschitz_steps(feature["train"], text)
    out: dict[str, Any] = {"lr_w": np.float32(rates[0]), "lr_alpha": np.float32(rates[1]),
           "alpha_init": start.alpha[0].detach().numpy(), "weight_init": start.weight.detach().numpy()}  # fmt: skip
    for tag in ("", "fixed."):
        head = LPPlusPlusHead.from_shots(
            feature["train"], label["train"], text, class_names(len(text)), a["alpha_factor"]
        )
        head.bias.data.copy_(case.state()["classifier.bias"])
        tests: list[float] = []

        def score(head: Any = head, tests: Any = tests) -> float:
            tests.append(percent(head(feature["test"]), label["test"]))
            return percent(head(feature["val"]), label["val"])

        done = fit_lp(head, feature["train"], label["train"], score, a["train_epoch"], a["momentum"], a["alpha_every"],
                      clear_alpha=bool(tag))  # fmt: skip
        head.load_state_dict(done.last)
        epochs = [
            int(n) for n in re.search(r"\[([\d, ]+)\]", case.json["outputs"]["alpha_at_epochs_after"])[1].split(",")
        ]
        found = {
            "losses": np.float32(done.losses), "alpha_at_epochs_after": torch.stack([done.alphas[e] for e in epochs]),
            "alpha_final_after": head.alpha, "weight_after": head.weight, "bias_after": head.bias,
            "val_logits_after": head(feature["val"]), "test_logits_after": head(feature["test"]),
            "val_acc": np.float32(done.scores), "best_epoch": np.int64(done.best),
            "test_acc_at_best": np.float32(tests[done.best]),
        }  # fmt: skip
        out |= {f"{tag}{k}": v for k, v in arrays(found).items()}
    return out


@builder("prolip")
def prolip_case(case: Case) -> dict[str, Any]:
    """Training with fixed settings or with a search, for a ViT's and a ResNet's projection."""
    out: dict[str, Any] = {}
    for tag, about in case.json["variants"].items():
        out |= tagged(tag, arrays(prolip_variant(case, about)))
    return out


def weight_of(a: dict[str, Any]) -> float:
    """Lambda: a number, 1/shots or 1/shots^2."""
    rule = a["lambda_rule"]
    if isinstance(rule, int | float):
        return float(rule)
    if not rule.startswith("1/shots"):
        raise KeyError(f"lambda_rule {rule!r}: known are a number, 1/shots and 1/shots^2")
    return 1 / (a["shots"] ** 2 if re.search(r"\^2|\*\*|shots\*shots", rule) else a["shots"])


def prolip_variant(case: Case, about: Any) -> dict[str, Any]:
    """One variant."""
    a, i, state = case.arch, case.json["inputs"], case.state()
    key, count = about["key"], about["n_classes"]
    weight = state[key].T if key in state else state[f"{key}.weight"]
    bias = state.get(f"{key}.bias")
    text = unit(case.input("centers") @ weight.T + i["text_factor"] * case.input("text"))[:count]
    keep = {k: [n for n, y in enumerate(i[f"{k}_labels"]) if y < count] for k in ("train", "val", "test")}
    label = {k: torch.tensor(i[f"{k}_labels"])[rows] for k, rows in keep.items()}
    part = lambda k, name: cluster(case, name, i[f"{k}_labels"])[keep[k]]  # noqa: E731
    views = torch.stack([part("train", f"train_view_{n}") for n in range(a["aug_views"])])
    val, test = (part(k, f"{k}_features") for k in ("val", "test"))
    head = ProLIPHead(weight.shape[1], class_names(count), text, weight, bias, a["scale"])
    found: dict[str, Any] = {"zeroshot_test_logits": head(test)}
    if about["search"]:
        grids = a["lr_grid"], a["lambda_grid"]
        judged = val, label["val"]
        grid, lr, best, seen = search_prolip(
            head, views, label["train"], judged, *grids, a["train_epoch"], a["adam_eps"]
        )
        found |= {"val_acc_grid": np.float32(grid), "chosen_lr_lambda": np.float32([lr, best])}
    else:
        seen = fit_prolip(head, views, label["train"], a["lr"], weight_of(a), a["train_epoch"], a["adam_eps"])
    ce, distance = (np.float32(x) for x in zip(*seen, strict=True))
    found |= {"ce_per_epoch_after": ce, "l2_per_epoch_after": distance, "test_logits_after": head(test),
              "test_acc": np.float32(percent(head(test), label["test"])),
              "proj_after": head.weight.T if key in state else head.weight}  # fmt: skip
    return found


@builder("fewshot_sampling")
def fewshot_sampling_case(case: Case) -> dict[str, Any]:
    """Indices that CLIP-LoRA, LP++ and ProLIP draw."""
    train, val = (case.json["inputs"][f"{k}_labels"] for k in ("train", "val"))
    out: dict[str, Any] = {}
    for name in case.expected:
        found = re.fullmatch(r"(.+)\.shot(\d+)\.seed(\d+)\.(train|val)", name)
        if found:
            rows = draws(found[1], train, val, int(found[2]), int(found[3]))
            out[name] = np.array(rows[found[4] == "val"])
    return out


def draws(kind: str, train: Any, val: Any, shots: int, seed: int) -> tuple[list[int], list[int]]:
    """The draw of one kind."""
    few = min(shots, 4)
    if kind.startswith("imagenet."):
        return draw_from_one(train, shots, few if kind.endswith("clip_lora") else shots, seed)
    if kind == "clip_lora":
        return draw_both(train, val, shots, seed, few, val_first=True)
    return draw_reduced(train, val, shots, seed) if kind.endswith("reduced") else draw_both(train, val, shots, seed)
