"""Probes of frozen towers: V-JEPA 2's attentive probe, Efficient Probing and the STEP-style probe."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from tests.parity.core import Case, builder, grad_norms, load_mapped
from tests.parity.fill import fill_state
from video.attentive_probe import AttentiveProbe
from video.checkpoints import VJEPA2_PROBE
from video.segments import segment_indices
from video.step_probe import StepProbe
from xmodal.efficient_probe import EfficientProbe
from xmodal.encoders.vjepa2 import VJEPA2
from xmodal.encoders.vjepa2_keys import from_official
from xmodal.engine.lars import LARS
from xmodal.engine.schedule import CosineSchedule
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel


def filled(case: Case, prefix: str, inside: bool) -> dict[str, Tensor]:
    """Tensors below a prefix, filled under their full name or under the rest of it."""
    shapes = {k if inside else k.removeprefix(prefix): v for k, v in case.json["state"].items() if k.startswith(prefix)}
    return {k.removeprefix(prefix): torch.from_numpy(np.array(v)) for k, v in fill_state(shapes, case.seed).items()}


@builder("vjepa2_probe")
def vjepa2_probe_case(case: Case) -> dict[str, Any]:
    """Tokens, probes of every depth, two steps, schedules and frame indices."""
    a, out = case.arch, {}
    encoder = probed_tower(a["encoder"], from_official(filled(case, "encoder.", inside=False)))
    views = [torch.stack([case.input(f"clip{s}_view{v}") for s in range(a["segments"])], 1) for v in range(a["views"])]
    clips = torch.stack(views, 1).flatten(1, 2).transpose(2, 3)  # (B, views*segments, T, 3, H, W)
    first = clips[:, : a["segments"]]
    for name, layers in (("features_view0", ()), ("features_multilevel_view0", a.get("out_layers", ()))):
        reader = AttentiveProbe(encoder, 1, a["probe_heads"], a["segments"], layers)
        tokens, grid = encoder.embed(first.flatten(0, 2), first.shape[2])
        taps = reader.listen()
        tokens = encoder.forward_blocks(tokens, grid, taps=taps)
        out[name] = reader.sequence(tokens, grid, encoder, taps).detach().numpy()
    for tag, about in case.json["variants"].items():
        out |= probe_case(case, encoder, clips, tag, about)
    for i, about in enumerate(case.json["schedules"]):
        steps = about["epochs"] * about["ipe"]
        schedule = schedule_of(about)
        values = [
            (schedule.optimizer.param_groups[0][k], schedule.step())[0] for _ in range(int(steps)) for k in ("lr",)
        ]
        schedule = schedule_of(about)
        decays = [(schedule.optimizer.param_groups[0]["weight_decay"], schedule.step())[0] for _ in range(int(steps))]
        out |= {f"schedule{i}_lr": np.array(values), f"schedule{i}_wd": np.array(decays)}
    for i, row in enumerate(case.json.get("rows", ())):
        out[f"row{i}"] = (frames_of(row), np.array(row["indices"]))
    return out


def frames_of(row: Mapping[str, Any]) -> np.ndarray:
    """Frame indices of one row."""
    draw = np.random.RandomState(row["numpy_seed"]).randint if row.get("random") else None
    sizes = (row["frames_per_clip"], row["frame_step"], row["num_clips"], row["frames"])
    return segment_indices(*sizes, overlap=row["allow_overlap"], draw=draw)


def probed_tower(a: Mapping[str, Any], state: Mapping[str, Tensor]) -> VJEPA2:
    """The frozen encoder."""
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    tower = VJEPA2(a["img_size"], a["patch_size"], a["embed_dim"], a["depth"], a["num_heads"],
                   (hidden + 0.5) / a["embed_dim"], a["tubelet_size"])  # fmt: skip
    load_mapped(tower, state)
    return tower.eval()


def schedule_of(about: Mapping[str, Any], optimizer: Any = None) -> CosineSchedule:
    """One of the case's schedules."""
    if optimizer is None:
        optimizer = AdamW([nn.Parameter(torch.zeros(1))], about["lr"], weight_decay=about["weight_decay"])
    return CosineSchedule(
        optimizer,
        int(about["epochs"] * about["ipe"]),
        about["ipe"],
        warmup_steps=int(about["warmup"] * about["ipe"]),
        final=about["final_lr"] / about["lr"],
        start=about["start_lr"] / about["lr"],
        ahead=1,
        final_decay=about["final_weight_decay"],
    )


def probe_case(case: Case, encoder: nn.Module, clips: Tensor, tag: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """One probe: what it computes, its gradients, and its logits after two steps."""
    a = case.arch
    model = TransferModel(
        encoder=encoder,
        reader=dict(type=AttentiveProbe, depth=about["depth"], num_heads=a["probe_heads"], segments=a["segments"],
                    mlp_ratio=a.get("probe_mlp_ratio", 4.0)),
        head=dict(type=ClassificationHead, num_classes=a["num_classes"], init_std=None),
    ).eval()  # fmt: skip
    own = filled(case, about.get("prefix", f"{tag}."), inside=True)
    ours = VJEPA2_PROBE.to_ours(own)
    assert set(ours) == model.saved_keys(), set(ours) ^ model.saved_keys()
    model.load_state_dict(ours, strict=False)
    labels, views = torch.tensor(case.json["labels"]), a["views"]

    def logits() -> Tensor:
        return model(mode="tensor", clips=clips).unflatten(0, (-1, views)).transpose(0, 1)  # (views, B, K)

    first = logits()
    losses = torch.stack([F.cross_entropy(x, labels) for x in first])
    tensors = dict(model.named_parameters())
    out = grad_norms(losses.sum(), {f"{tag}.{k}": tensors[VJEPA2_PROBE.ours(k)] for k in own})
    probs = torch.stack([p["scores"] for p in model(mode="predict", clips=clips)])
    pooled = model.features(clips=clips).unflatten(0, (-1, views))[:, 0]
    out |= {f"{tag}_{k}": v.detach().numpy() for k, v in
            dict(logits=first, probs=probs, loss=losses, pooled_view0=pooled).items()}  # fmt: skip
    schedule = case.json["schedules"][0]
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], schedule["lr"],
                      weight_decay=schedule["weight_decay"])  # fmt: skip
    rates = schedule_of(schedule, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        sum(F.cross_entropy(x, labels) for x in logits()).backward()
        optimizer.step()
        rates.step()
    return out | {f"{tag}_logits_after2steps": logits().detach().numpy()}


class Tokens(nn.Module):
    """Stands for an encoder whose tokens are given."""

    def __init__(self, dim: int, num_heads: int = 1):
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.norm = nn.Identity()


@builder("efficient_probing")
def efficient_probing_case(case: Case) -> dict[str, Any]:
    """Every variant of the probe, with its steps of LARS, and the schedule."""
    a, o, out = case.arch, case.json["optimiser"], {}
    for tag, about in case.json["variants"].items():
        own = filled(case, about.get("prefix", f"{tag}."), inside=True)
        reader = EfficientProbe(Tokens(a["dim"]), about["num_queries"], about["d_out"], bias="0.v.bias" in own)
        head = ClassificationHead(reader.out_dim, a["num_classes"], norm="batch", init_std=None)
        head.norm.eps, head.norm.momentum = a.get("bn_eps", 1e-6), a.get("bn_momentum", 0.1)
        probe = nn.ModuleDict({"reader": reader, "head": head}).eval()
        names = {"0.cls_token": "reader.queries", "0.v": "reader.v", "1": "head.norm", "2": "head.fc"}
        keys = {k: names.get(k) or names[k.rsplit(".", 1)[0]] + "." + k.rsplit(".", 1)[1] for k in own}
        load_mapped(probe, {keys[k]: v for k, v in own.items()})
        out |= efficient_probing_variant(case, probe, tag, about, keys)
    rates = lars_schedule(o, [nn.Parameter(torch.zeros(1))], 4)
    count = len(case.expected["schedule_lr"])
    out["schedule_lr"] = np.array([(rates.optimizer.param_groups[0]["lr"], rates.step())[0] for _ in range(count)])
    return out


def lars_schedule(o: Mapping[str, Any], parameters: Any, epoch_length: int, **more: Any) -> CosineSchedule:
    """LARS and its rates."""
    optimizer = LARS(parameters, o["lr"], momentum=o["momentum"], trust=o["trust_coefficient"], **more)
    return CosineSchedule(optimizer, o["epochs"] * epoch_length, epoch_length, o["warmup_epochs"],
                          final=o.get("min_lr", 0) / o["lr"])  # fmt: skip


def efficient_probing_variant(
    case: Case, probe: Any, tag: str, about: Mapping[str, Any], keys: Mapping
) -> dict[str, Any]:
    """What one probe computes."""
    o, labels = case.json["optimiser"], torch.tensor(case.json["labels"])
    tokens, train = case.input("tokens"), case.input("tokens_train")
    logits = lambda x: probe["head"](probe["reader"].pool(x))  # noqa: E731
    tensors = dict(probe.named_parameters())
    named = {f"{tag}.{k}": tensors[v] for k, v in keys.items() if v in tensors}
    first = logits(tokens)
    out = grad_norms(F.cross_entropy(first, labels), named)
    found = dict(pooled=probe["reader"].pool(tokens), logits=first, attention=probe["reader"].attention(tokens))
    rates = lars_schedule(o, probe.parameters(), o["steps"], weight_decay=about.get("weight_decay", 0.0))
    for _ in range(o["steps"]):  # up to epoch 1
        rates.step()
    probe.train()
    for step in range(o["steps"]):
        x = logits(train)
        found |= {"train_logits_first": x} if step == 0 else {}
        rates.optimizer.zero_grad()
        F.cross_entropy(x, labels).backward()
        rates.optimizer.step()
        rates.step()
    probe.eval()
    norm = probe["head"].norm
    found |= dict(logits_after=logits(tokens), running_mean_after=norm.running_mean, running_var_after=norm.running_var)
    return out | {f"{tag}_{k}": v.detach().numpy() for k, v in found.items()}


@builder("step_probe")
def step_probe_case(case: Case) -> dict[str, Any]:
    """Logits of frames in order, in reverse, and without positions."""
    a, state = case.arch, case.state()
    reader = StepProbe(Tokens(a["dim"]), a["frames"], a["heads"])
    load_mapped(reader, {k: v for k, v in state.items() if not k.startswith("head.")})
    head = ClassificationHead(a["dim"], a["num_classes"], init_std=None)
    load_mapped(head, {k.replace("head.", "fc."): v for k, v in state.items() if k.startswith("head.")})
    x = case.input("tokens")
    logits = head(reader.attend(x))
    tensors = dict(reader.named_parameters()) | {f"head.{k}": v for k, v in head.fc.named_parameters()}
    out = grad_norms((logits * case.cotangent(logits.shape)).sum(), {k: tensors[k] for k in state})
    found = {"logits": logits, "logits_reversed": head(reader.attend(x.flip(1)))}
    reader.frame_pos.data.zero_()
    found["logits_without_frame_pos"] = head(reader.attend(x))
    return out | {k: v.detach().numpy() for k, v in found.items()}
