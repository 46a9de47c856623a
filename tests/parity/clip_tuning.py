"""Few-shot methods inside CLIP's towers: CLIP-LoRA, 2SFS, MaPLe and PromptSRC."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity.clip_family import class_names, clip_of, cotangent_loss
from tests.parity.core import Case, builder, grad_norms, tagged
from tests.parity.fewshot_2025 import arrays, batches_of, dassl_rates, filled
from xmodal.clip_tuning.clip_lora import CLIPLoRA
from xmodal.clip_tuning.maple import MaPLe
from xmodal.clip_tuning.promptsrc import PromptSRC, gaussian_weights
from xmodal.clip_tuning.tuned import TunedCLIP, WeightAverage
from xmodal.clip_tuning.two_stage import TwoStage
from xmodal.evaluation.fit import cosine_rates, dassl_optimizer, fit
from xmodal.official.clip_tuning import CLIP_LORA, MAPLE, PROMPTSRC, TOWER_NORMS
from xmodal.official.names import Converter, rename_key


def fill_tuned(model: TunedCLIP, case: Case, shapes: Mapping[str, Any], names: Converter) -> dict[str, Tensor]:
    """Fill trained weights by their official keys; {official key: weight}."""
    live = model.trained()
    found = {key: rename_key(key, names.pairs) for key in shapes}
    assert set(found.values()) == set(live), sorted(set(found.values()) ^ set(live))[:6]
    for key, ours in found.items():
        assert list(live[ours].shape) == list(shapes[key]), (key, live[ours].shape)
        live[ours].data.copy_(filled(case, key, shapes[key]))
    return {key: live[ours] for key, ours in found.items()}


def seen(model: TunedCLIP, case: Case) -> dict[str, Tensor]:
    """Logits and features of the case's images."""
    x = case.input("image")
    return {"logits": model(x), "text_features": model.text_features(), "image_features": model.image_features(x)}


def trained_steps(
    steps: int, batches: Sequence[Any], loss: Callable[..., Tensor], optimizer: Any, rates: list[float]
) -> dict[str, Any]:
    """Train with one batch a step, taken in turn: losses before and rates of every update."""
    losses: list[float] = []

    def recorded(batch: Any) -> Tensor:
        value = loss(*batch)
        losses.append(float(value.detach()))
        return value

    fit(steps, lambda step: [batches[step % len(batches)]], recorded, [optimizer], [rates])
    return {"losses": np.float32(losses), "rates": np.float32(rates)}


def adamw(parameters: Any, t: Mapping[str, Any]) -> torch.optim.Optimizer:
    """AdamW of a case."""
    return torch.optim.AdamW(list(parameters), t["lr"], weight_decay=t.get("wd", t.get("weight_decay")),
                             betas=tuple(t.get("betas", (0.9, 0.999))))  # fmt: skip


@builder("clip_lora")
def clip_lora_case(case: Case) -> dict[str, Any]:
    """Every variant, its merged weights, and training."""
    a, t, out = case.arch, case.json["training"], {}
    ids, clip = torch.tensor(case.json["inputs"]["tokens"]), clip_of(case)
    for tag, v in case.json["variants"].items():
        model = CLIPLoRA(class_names(len(ids)), clip, v["encoder"], v["params"], v["r"], v["alpha"], v["dropout_rate"],
                         v["blocks"], logit_scale=a.get("logit_scale_used", 100), prompt_ids=ids).eval()  # fmt: skip
        tensors = fill_tuned(model, case, v["trainable"], CLIP_LORA)
        found: dict[str, Any] = seen(model, case)
        out |= grad_norms(cotangent_loss(case, found["logits"]), tensors, f"grad:{tag}.")
        tower = model.clip.text if v["encoder"] == "text" else model.clip.visual
        found["merged_qkv_weight_first_block_norms"] = merged_norms(tower.blocks[min(v["blocks"])])
        out |= tagged(tag, arrays(found))
        if tag == t["variant"]:
            rates = cosine_rates(t["lr"], t["total_steps"], t["eta_min"])
            optimizer = adamw(tensors.values(), t)
            loss = lambda x, y, m=model: m.loss(x, y)["loss"]  # noqa: E731
            done = trained_steps(t["total_steps"], batches_of(case), loss, optimizer, rates)
            out |= {"train_step_losses": done["losses"], "lr_per_step": done["rates"],
                    "logits_after_training": model(case.input("image")).detach().numpy()}  # fmt: skip
    return out


def merged_norms(block: Any) -> Tensor:
    """Norms of the query, key, value and output weights with their updates."""
    weights = []
    for layer in (block.attn.qkv, block.attn.proj):
        update = dict(layer.edits.items()).get("clip_lora")
        weights.append(layer.weight if update is None else update.fold(layer.weight, layer.bias)[0])
    return torch.stack([w.norm() for w in (*weights[0].chunk(3), weights[1])])


KINDS = {"ln": "norms", "lora": "lora", "bitfit": "biases"}


@builder("two_stage_few_shot", "two_stage")
def two_stage_case(case: Case) -> dict[str, Any]:
    """Both stages of every variant, and selective inference."""
    out: dict[str, Any] = {}
    for tag, v in case.json["variants"].items():
        found, norms = two_stage_variant(case, v)
        out |= tagged(tag, arrays(found)) | {f"norm_after_stage1:{tag}.{k}": x for k, x in norms.items()}
    return out


def two_stage_variant(case: Case, v: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One variant: results, and how far each tensor moved in stage 1."""
    ids, base = torch.tensor(case.json["inputs"]["tokens"]), case.arch["n_base"]
    names = class_names(len(ids))
    low_rank = v["peft"] == "lora"
    options = dict(rank=v["r"], alpha=v["alpha"], dropout=0.0) if low_rank else {}
    options |= {ours: v[key] for key, ours in (("params", "targets"), ("blocks", "blocks")) if low_rank and key in v}
    towers = v.get("encoder", v["ln_modality"]) if v["peft"] != "ln" else v["ln_modality"]
    model = TwoStage(names[:base], clip_of(case), KINDS[v["peft"]], towers, (v["ln_vision_start"], v["ln_text_start"]),
                     options=options, prompt_ids=ids[:base]).eval()  # fmt: skip
    if low_rank:
        tensors = fill_tuned(model, case, v["lora"], CLIP_LORA)
    else:
        live = model.trained()
        tensors = {k: live[rename_key(k, TOWER_NORMS)] for k in v["trained_in_stage1"]}
        assert len(tensors) == len(live), set(live) - {rename_key(k, TOWER_NORMS) for k in tensors}
    start = {k: t.detach().clone() for k, t in tensors.items()}
    first, total = v["stage1_steps"], v["total_steps"]
    rates = [cosine_rates(v["lr"], n, v.get("eta_min", 1e-6)) for n in (first, total - first)]
    loss = lambda x, y: model.loss(x, y)["loss"]  # noqa: E731
    one = trained_steps(first, batches_of(case), loss, adamw(tensors.values(), v), rates[0])
    moved = {k: float((t.detach() - start[k]).norm()) for k, t in tensors.items()}
    classifier = model.second_stage()
    found: dict[str, Any] = {"classifier_init_after_stage1": classifier.detach().clone()}
    two = trained_steps(total - first, batches_of(case), loss, adamw([classifier], v), rates[1])
    found |= {"step_losses": np.concatenate([one["losses"], two["losses"]]), "classifier_after": classifier,
              "lr_per_step": np.concatenate([one["rates"], two["rates"]])}  # fmt: skip
    x = case.input("image")
    for name, rows in {"base": slice(0, base), "new": slice(base, None), "all": slice(None)}.items():
        model.set_classes(names[rows], ids[rows])
        found[f"{name}_logits_after"] = model(x)
    return found, moved


@builder("maple")
def maple_case(case: Case) -> dict[str, Any]:
    """Every variant and training."""
    t, out = case.json["training"], {}
    ids, clip = torch.tensor(case.json["inputs"]["tokens"]), clip_of(case)
    label = torch.tensor(case.json["inputs"]["label"])
    for tag, v in case.json["variants"].items():
        model = MaPLe(class_names(len(ids)), clip, v["n_ctx"], v["depth"], prompt_ids=ids).eval()
        tensors = fill_tuned(model, case, v["trainable"], MAPLE)
        found: dict[str, Any] = seen(model, case)
        out |= grad_norms(cotangent_loss(case, found["logits"]), tensors, f"grad:{tag}.")
        found["train_loss"] = F.cross_entropy(found["logits"], label)
        out |= tagged(tag, arrays(found))
        if tag == t["variant"]:
            out |= dassl_training(case, model)
    return out


def dassl_training(case: Case, model: Any, each_epoch: Callable[[int], Any] = lambda epoch: None) -> dict[str, Any]:
    """Train as Dassl does; results under the case's names."""
    t, losses = case.json["training"], []

    def loss(batch: Any) -> Tensor:
        value = model.loss(*batch)["loss"]
        losses.append(float(value.detach()))
        return value

    optimizer, rates = dassl_optimizer(list(model.trained().values()), t["lr"], t["max_epoch"],
                                       warmup_epochs=t["warmup_epochs"], warmup_lr=t["warmup_cons_lr"])  # fmt: skip
    assert rates == dassl_rates(t)
    for group in optimizer.param_groups:
        group.update(momentum=t["momentum"], weight_decay=t["weight_decay"])
    fit(t["max_epoch"], lambda epoch: batches_of(case), loss, [optimizer], [rates], each_epoch=each_epoch)
    return {"train_step_losses": np.float32(losses), "lr_per_epoch": np.float32(rates),
            "logits_after_training": model(case.input("image")).detach().numpy()}  # fmt: skip


@builder("promptsrc")
def promptsrc_case(case: Case) -> dict[str, Any]:
    """Features, losses, gradients, training and the weighted average of prompts."""
    a, i, t = case.arch, case.json["inputs"], case.json["training"]
    ids, clip = torch.tensor(i["tokens"]), clip_of(case)
    model = PromptSRC(
        class_names(len(ids)), clip, a["n_ctx_text"], a["n_ctx_vision"], a["depth_text"], a["depth_vision"],
        a["text_loss_weight"], a["image_loss_weight"], prompt_ids=ids, template_ids=torch.tensor(i["template_tokens"]),
    ).eval()  # fmt: skip
    tensors = fill_tuned(model, case, case.json["trainable"], PROMPTSRC)
    x, label = case.input("image"), torch.tensor(i["label"])
    found: dict[str, Any] = seen(model, case)
    out = grad_norms(cotangent_loss(case, found["logits"]), tensors)
    parts = model.losses(x, label)
    total = model.loss(x, label)["loss"]
    out |= grad_norms(total, tensors, "total_grad:")
    h = model.frozen_image(x)
    found |= {f"loss_{k}": parts[k] for k in ("ce", "text", "image")} | {"loss_logits": parts["kl"]}
    found |= {"frozen_text_features": model.frozen_text, "frozen_image_features": h, "loss_total": total,
              "frozen_logits": model.scale * h @ model.frozen_text.T}  # fmt: skip
    out |= arrays(found)
    weights, kept = gaussian_weights(t["max_epoch"], t["gpa_mean"], t["gpa_std"]), WeightAverage(model)

    def each_epoch(epoch: int) -> None:
        kept.add(weights[epoch])
        if epoch == len(weights) - 1:
            kept.install()

    out |= dassl_training(case, model, each_epoch) | {"gauss_weights": np.float32(weights)}
    out |= {f"norm_after:{k}": float(p.detach().norm()) for k, p in tensors.items()}
    for row in case.json.get("gauss_tables", ()):
        out[f"gauss.{'_'.join(map(str, row))}"] = np.float32(gaussian_weights(*row))
    short = {"ctx_after_training": "prompt_learner.ctx", "vpt_after_training": "image_encoder.VPT"}
    return out | {name: tensors[key].detach().numpy() for name, key in short.items()}
