"""UniCL, MS-CLIP and the procedures of ELEVATER: official keys and closed forms onto the product's modules."""

import ast
import math
import operator
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.parity.core import Case, builder, grad_norms, load_mapped
from tests.parity.fill import fill_input
from xmodal.encoders.keys import under
from xmodal.encoders.msclip import MSCLIP
from xmodal.encoders.timm_parts import exact_ratio
from xmodal.encoders.unicl import unicl
from xmodal.evaluation.metrics import accuracy, map11, mean_per_class, roc_auc
from xmodal.evaluation.probe import LabeledInputs, LinearProbe, fit_probe
from xmodal.evaluation.sampling import few_shot_subset, validation_split
from xmodal.evaluation.search import RateSpace, SearchResult, hyperparameter_search
from xmodal.losses import clip_loss, unicl_loss, unicl_target
from xmodal.official.contrastive import MSCLIP_RELEASED, MSCLIP_WITHOUT_STEM, UNICL

OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
    ast.FloorDiv: operator.floordiv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
COMPARISONS: dict[type, Callable] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FUNCTIONS = {"round": round, "abs": abs, "min": min, "max": max, "int": int, "float": float}
FUNCTIONS |= {name: getattr(math, name) for name in dir(math) if callable(getattr(math, name))}


def closed_form(text: str, values: dict[str, float]) -> float:
    """The value of a formula: numbers, names, arithmetic, comparisons, `a if b else c` and functions of `math`."""

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return values[node.id]
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp):
            return OPERATORS[type(node.op)](value(node.operand))
        if isinstance(node, ast.IfExp):
            return value(node.body if value(node.test) else node.orelse)
        if isinstance(node, ast.Compare):
            sides = [value(n) for n in (node.left, *node.comparators)]
            return all(COMPARISONS[type(op)](*pair) for op, pair in zip(node.ops, pairwise(sides), strict=True))
        assert isinstance(node, ast.Call), f"{ast.dump(node)} in {text!r}"
        function = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id  # type: ignore[attr-defined]
        return FUNCTIONS[function](*map(value, node.args))

    text = text.split("  ")[0].removeprefix("always").strip().replace("^", "**")
    return value(ast.parse(text, mode="eval").body)


@builder("elevater_hparam")
def elevater_hparam_case(case: Case) -> dict[str, Any]:
    """Traces of the hyperparameter search on closed-form scores and on a linear probe."""
    computed: dict[str, Any] = {}
    for tag, spec in case.json["inputs"].items():
        if "score" in spec:
            values = spec.get("params", {})

            def run(lr: float, wd: float, text: str = spec["score"], given: dict = values) -> float:
                return closed_form(text, {**given, "lr": lr, "wd": wd})

            result = hyperparameter_search(run, search_space(case, spec))
        else:
            result, final = probe_search(case, spec)
            computed |= {f"{tag}.{k}": v for k, v in final.items()}
        computed |= {f"{tag}.{k}": v for k, v in trace_arrays(result).items()}
    return computed


def search_space(case: Case, spec: dict) -> RateSpace:
    """The search a case asks for."""
    return RateSpace(
        **grids(case.arch),
        initial=tuple(case.arch["init_indices"]),
        spans=tuple(case.arch["spans"]),
        left_only=bool(spec.get("wd_search_left", False)),
    )


def grids(arch: dict) -> dict[str, tuple[float, ...]]:
    """Rates and decays that a case lists, or spells `10^a..10^b` and `n values`; else the product's own."""
    found = {}
    for ours, theirs in (("learning_rates", "lr_list"), ("weight_decays", "wd_grid")):
        given = arch.get(theirs, "")
        span = re.search(r"10\^(-?[\d.]*\d)\.\.10\^(-?[\d.]*\d)", str(given))
        number = re.search(r"(\d+) values", str(given))
        if isinstance(given, list):
            found[ours] = tuple(map(float, given))
        elif span and number:
            found[ours] = tuple(float(v) for v in np.logspace(float(span[1]), float(span[2]), int(number[1])))
    return found


def trace_arrays(result: SearchResult) -> dict[str, Any]:
    """Trials and choice as a case holds them; failed runs are not recorded."""
    done = [t for t in result.trials if t.score is not None]
    return {
        "tried_log10": np.log10([[t.learning_rate, t.weight_decay] for t in done]),
        "scores": np.array([t.score for t in done]),
        "best_lr": np.float64(result.learning_rate),
        "best_wd_log10": np.log10(result.weight_decay) if result.weight_decay else np.float64(-99),
    }


def probe_search(case: Case, spec: dict) -> tuple[SearchResult, dict[str, Any]]:
    """The search on the features that a case describes, and the final run."""
    k, dim = spec["n_classes"], spec["dim"]
    centers = torch.from_numpy(fill_input("centers", (k, dim), case.seed))

    def samples(name: str) -> LabeledInputs:
        n = spec[f"n_{name}"]
        label = torch.arange(n) % k
        noise = torch.from_numpy(fill_input(name, (n, dim), case.seed))
        return LabeledInputs(centers[label] + spec["noise"] * noise, label)

    text = F.normalize(centers + 2 * torch.from_numpy(fill_input("text", (k, dim), case.seed)), dim=-1)
    probe = LinearProbe(
        dim,
        k,
        channel_bn=spec["use_channel_bn"],
        normalize=spec["normalize_visual_feature"],
        logit_scale_init=spec["logit_scale_init"],
        text_weights=text,
    )
    train, val, test = samples("train"), samples("val"), samples("test")
    epochs, batch = spec["epochs"], spec["batch"] if isinstance(spec.get("batch"), int) else len(train)
    result = hyperparameter_search(
        lambda lr, wd: fit_probe(probe, train, val, lr, wd, epochs, batch).best, search_space(case, spec)
    )
    final = fit_probe(
        probe,
        train.merged(val) if "train+val" in str(spec.get("how")) else train,
        test,
        result.learning_rate,
        result.weight_decay,
        epochs + spec["extra_final_epochs"],
        batch,
    )
    trained = sum(p.numel() for p in probe.parameters() if p.requires_grad)
    return result, {
        "final_test_acc": np.float64(final.best),
        "best_probs": final.best_probabilities,
        "n_trainable": np.int64(trained),
    }


@builder("elevater_metrics")
def elevater_metrics_case(case: Case) -> dict[str, Any]:
    """The measures as fractions, the validation split, the few-shot subsets."""
    n, k = case.arch["n"], case.arch["n_classes"]
    label, several = case.json["inputs"]["labels"], case.json["inputs"]["multilabel"]
    hot = np.array([[float(c in own) for c in range(k)] for own in several], dtype=np.float32)
    scores = fill_input("scores", (n, k), case.seed) + np.eye(k, dtype=np.float32)[label]
    many = fill_input("mlscores", (n, k), case.seed) + hot
    softmax = lambda x: torch.from_numpy(x).softmax(-1).numpy()  # noqa: E731
    binary = (fill_input("yb", (n,), case.seed) + scores[:, 0]) > 0
    sigmoid = lambda x: torch.from_numpy(x).sigmoid().numpy()  # noqa: E731
    computed: dict[str, Any] = {
        "accuracy": accuracy(softmax(scores), label) / 100,
        "mean_per_class": mean_per_class(softmax(scores), label) / 100,
        "roc_auc": roc_auc(sigmoid(scores[:, 0]), binary) / 100,
        "map_11point": map11(sigmoid(many), hot) / 100,
        "map_11point_softmax_input": map11(softmax(many), hot) / 100,
    }
    for kind, labels in (("multiclass", label), ("multilabel", several)):
        computed[f"train_idx_{kind}"], computed[f"val_idx_{kind}"] = validation_split(labels)
        for shots, seed in case.arch["shots_seeds"]:
            computed[f"fewshot_{kind}.shot{shots}.seed{seed}"] = few_shot_subset(labels, shots, seed, num_classes=k)
    return computed


@builder("unicl")
def unicl_case(case: Case) -> dict[str, Any]:
    """Features, targets, both directions of the loss and gradients, with towers and on given features."""
    a, state = case.arch, case.state()
    model = unicl(
        image_size=a["image_resolution"],
        swin_dim=a["swin_dim"],
        depths=a["depths"],
        num_heads=a["heads"],
        window_size=a["window"],
        patch_size=a["patch_size"],
        out_dim=a["dim"],
        text_width=a["text_width"],
        text_depth=a["text_layers"],
        text_heads=a["text_heads"],
        vocab_size=a["vocab_size"],
        context_length=a["context_length"],
        mlp_ratio=hidden_ratio(case, "image_encoder.layers.0.blocks.0.mlp.fc1.weight"),
        text_mlp_ratio=hidden_ratio(case, "text_encoder.resblocks.0.mlp.c_fc.weight"),
        norm_eps=a["swin_norm_eps"],
        text_norm_eps=a["text_layernorm_eps"],
    ).eval()
    load_mapped(model, under(UNICL.to_ours(state), "clip."))
    label = torch.tensor(case.json["inputs"]["labels"])
    image = model.encode_image(case.input("image"), normalize=True)
    text = model.encode_text(torch.tensor(case.json["inputs"]["tokens"]), normalize=True)
    found = unicl_loss(image, text, model.logit_scale, label)
    tensors = dict(model.named_parameters())
    computed = grad_norms(
        found["loss"], {k: tensors[UNICL.ours(k).removeprefix("clip.")] for k in case.json["trainable"]}
    )
    computed |= {"target": unicl_target(label).numpy(), "image_features": image.detach().numpy()}
    computed |= {"text_features": text.detach().numpy()} | {k: v.item() for k, v in found.items()}
    return computed | unicl_features(case, label)


def hidden_ratio(case: Case, key: str) -> float:
    """Hidden width over width of the MLP whose first weight is `key`; what the case says where it has no such block."""
    shape = case.json["state"].get(key)
    return exact_ratio(*shape) if shape else case.arch["mlp_ratio"]


def unicl_features(case: Case, label: torch.Tensor) -> dict[str, Any]:
    """The loss and its gradients on features that the case gives."""
    shape = (len(label), case.arch["dim"])
    u, v = (F.normalize(torch.from_numpy(fill_input(n, shape, case.seed)), dim=-1).requires_grad_() for n in "uv")
    scale = torch.tensor(1 / 0.07).log().requires_grad_()
    found = unicl_loss(u, v, scale, label)
    grads = torch.autograd.grad(found["loss"], (u, v, scale))
    captions = unicl_loss(u, v, scale, torch.zeros_like(label))["loss"].item()
    assert abs(captions - clip_loss(u, v, scale)["loss"].item()) < 1e-6
    return {
        **{f"feat_{k}": value.item() for k, value in found.items()},
        **{f"feat_grad_{k}": g.numpy() for k, g in zip(("u", "v", "logtau"), grads, strict=True)},
        "all_caption_loss": captions,
    }


def own_share(names: list[str]) -> list[str]:
    """Official names of shared parts under xmodal's names."""
    table = {"attn.in_proj_weight": "attn.qkv.weight", "attn.in_proj_bias": "attn.qkv.bias"}
    table |= {"attn.out_proj": "attn.proj", "ln_1": "norm1", "ln_2": "norm2"}
    table |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    return [table.get(name, name) for name in names]


def branch_options(case: Case) -> dict[str, Any]:
    """The parallel branch as the case describes it."""
    custom, state = case.arch["custom"], case.json["state"]
    if not custom.get("PARALLEL_IN_V"):
        return dict(lateral_layers=())
    layers = custom["PARALLEL_LATERAL_LAYER"]
    key = "visual.transformer.parallel_lateral_adapter.{}.top2bottom_dw_conv.conv.weight"
    return dict(
        lateral_layers=layers,
        branch_blocks=custom["PARALLEL_RESNET_LAYERS"],
        branch_dims=[state[key.format(i)][0] for i in range(len(layers))],
        lateral_kernels=custom["PRALLEL_T2B_KERNELS"],
        lateral_strides=custom["PRALLEL_T2B_STRIDES"],
        lateral_padding=custom["PRALLEL_T2B_PADDINGS"],
        fuse_class_token=custom.get("PRALLEL_T2B_USECLS", True),
    )


@builder("msclip")
def msclip_case(case: Case) -> dict[str, Any]:
    """Features, logits and gradients of MS-CLIP(-S), with the sharing that the case asks for."""
    a, custom, tied = case.arch, case.arch["custom"], case.json.get("tied", {})
    per_head = re.search(r"// *(\d+)", str(a.get("heads", "")))
    heads = a["heads"] if isinstance(a.get("heads"), int) else a["width"] // int(per_head[1] if per_head else 64)
    early = bool(custom.get("EARLY_CONV"))
    model = MSCLIP(
        share=own_share(custom.get("SHARE_MODULES", [])),
        first_shared=custom.get("N_LAYERS", 0),
        depth=a["layers"],
        dim=a["width"],
        num_heads=heads,
        out_dim=a["embed_dim"],
        vocab_size=a["vocab_size"],
        context_length=a["context_length"],
        image_size=a["image_resolution"],
        patch_size=a["patch_size"],
        early_conv=early,
        stem_blocks=custom.get("EARLY_CONV_RES_LAYERS", (1, 1, 1, 1)),
        stem_kernel=custom.get("EARLY_CONV_RES_FIRSTCONV_KERNEL", 3),
        **branch_options(case),
    ).eval()
    state = case.state()
    names = MSCLIP_RELEASED if early else MSCLIP_WITHOUT_STEM
    state |= {text: state[image] for text, image in tied.items()}
    load_mapped(model, under(names.to_ours(state), "clip."))
    ours = {key: names.ours(key).removeprefix("clip.") for key in (*state, *case.json["trainable"])}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for text_key, image_key in tied.items():
        assert tensors[ours[text_key]] is tensors[ours[image_key]], text_key
    unique = sum(p.numel() for p in model.parameters())
    assert unique == case.json.get("unique_params", unique), f"{unique} weights"
    image = model.encode_image(case.input("image"), normalize=True)
    text = model.encode_text(torch.tensor(case.json["inputs"]["tokens"]), normalize=True)
    logits = model.logits(image, text)
    loss = (logits * case.cotangent(logits.shape)).sum()
    computed = grad_norms(loss, {k: tensors[ours[k]] for k in case.json["trainable"]})
    outputs = {"logits": logits, "image_features": image, "text_features": text}
    return computed | {k: v.detach().numpy() for k, v in outputs.items()}
