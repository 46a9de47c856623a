"""Prompt learners in and out of the layout of Dassl, and Tip-Adapter's trained keys.

Dassl writes one folder per trained module, `<module>/model.pth.tar-<epoch>`, and pickles its optimizer and scheduler
beside the weights. Such files are opened with `weights_only=True`; whatever class they name is replaced by
an inert one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.convert import Names, rename
from xmodal.registry import METHODS, did_you_mean

State = dict[str, Tensor]
DERIVED = re.compile(r"(.*\.)?(token_prefix|token_suffix)")
LEARNER = "prompt_learner"
VISUAL = "image_encoder.transformer"


@dataclass(frozen=True)
class PromptNames:
    """Official names of a prompt learner's weights, and ours.

    Args:
        modules: Dassl's folders.
        reads: (pattern of an official key, our key).
        writes: (pattern of our key, official key).
        unstack: official tensors to as many of ours, before `reads`; `stack` undoes it after `writes`.
        stack: see `unstack`.
    """

    modules: tuple[str, ...]
    reads: Names
    writes: Names
    unstack: Callable[[State], State] = dict
    stack: Callable[[State], State] = dict

    def to_ours(self, state: Mapping[str, Tensor]) -> State:
        """Official weights (keys with their module in front) under our names."""
        return rename(self.unstack(dict(state)), self.reads)

    def to_official(self, state: Mapping[str, Tensor]) -> State:
        """Our weights under official names, module in front."""
        return self.stack(rename(state, self.writes))


def stacked(name: str) -> tuple[Callable[[State], State], Callable[[State], State]]:
    """Functions that take an official tensor `name` apart into `name.0`, `name.1`, ..., and put it together again."""

    def apart(state: State) -> State:
        whole = state.pop(name, None)
        return state if whole is None else {**state, **{f"{name}.{i}": part for i, part in enumerate(whole)}}

    def together(state: State) -> State:
        parts = sorted((k for k in state if k.startswith(f"{name}.")), key=lambda k: int(k.rpartition(".")[2]))
        stack = {name: torch.stack([state[k] for k in parts])} if parts else {}
        return {**{k: v for k, v in state.items() if k not in parts}, **stack}

    return apart, together


COOP = PromptNames((LEARNER,), ((r"prompt_learner\.ctx", "ctx"),), ((r"ctx", "prompt_learner.ctx"),))
COCOOP = PromptNames((LEARNER,), ((r"prompt_learner\.(.+)", r"\1"),), ((r"(ctx|meta_net\..+)", r"prompt_learner.\1"),))
DPLCLIP = PromptNames(
    ("network",), ((r"(?:network\.module\.)?(?:network\.)?(.+)", r"network.\1"),), ((r"network\.(.+)", r"network.\1"),)
)
PROJECTIONS = (
    ("vpt_pre", "visual_pre"),
    ("vpt_post", "visual_post"),
    ("coop_pre", "text_pre"),
    ("coop_post", "text_post"),
)
BLOCK = (
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
MVLPT = PromptNames(
    (LEARNER,),
    (
        (r"prompt_learner\.ctx", "ctx"),
        (r"prompt_learner\.vpt_embeddings", "visual"),
        (r"prompt_learner\.vpt_embeddings_deep", "deep"),
        (r"prompt_learner\.vpt_proj\.(\w+)", r"visual_proj.\1"),
        *((rf"prompt_learner\.(?:mvlpt|upt)_proj_ctx_{old}\.(\w+)", rf"unified.{new}.\1") for old, new in PROJECTIONS),
        *(
            (rf"prompt_learner\.(?:mvlpt|upt)_proj\.resblocks\.0\.{re.escape(old)}(\w+)", rf"unified.block.{new}\1")
            for old, new in BLOCK
        ),
    ),
    (
        (r"ctx", "prompt_learner.ctx"),
        (r"visual", "prompt_learner.vpt_embeddings"),
        (r"deep", "prompt_learner.vpt_embeddings_deep"),
        (r"visual_proj\.(\w+)", r"prompt_learner.vpt_proj.\1"),
        *((rf"unified\.{new}\.(\w+)", rf"prompt_learner.mvlpt_proj_ctx_{old}.\1") for old, new in PROJECTIONS),
        *(
            (rf"unified\.block\.{re.escape(new)}(\w+)", rf"prompt_learner.mvlpt_proj.resblocks.0.{old}\1")
            for old, new in BLOCK
        ),
    ),
)
CAVPT = (
    ("meta_nets", "", "meta_net"),
    ("attns", ".qmlp", "q"),
    ("attns", ".kmlp", "k"),
    ("attns", ".vmlp", "out"),
    ("lns", "", "norm"),
    ("classfiers", "", "classifier"),
    ("lns2", "", "prompt_norm"),
)
_apart, _together = stacked(f"{VISUAL}.extractor.ctx")
DPT = PromptNames(
    (LEARNER, f"{VISUAL}.ctx_learner", f"{VISUAL}.extractor"),
    (
        (r"prompt_learner\.ctx", "ctx"),
        (r"image_encoder\.transformer\.ctx_learner\.ctx", "visual"),
        (r"image_encoder\.transformer\.extractor\.ctx\.(\d+)", r"cavpt.\1.tokens"),
        *(
            (
                rf"image_encoder\.transformer\.extractor\.{group}\.(\d+){re.escape(part)}\.(weight|bias)",
                rf"cavpt.\1.{ours}.\2",
            )
            for group, part, ours in CAVPT
        ),
    ),
    (
        (r"ctx", "prompt_learner.ctx"),
        (r"visual", f"{VISUAL}.ctx_learner.ctx"),
        (r"cavpt\.(\d+)\.tokens", rf"{VISUAL}.extractor.ctx.\1"),
        *(
            (rf"cavpt\.(\d+)\.{ours}\.(weight|bias)", rf"{VISUAL}.extractor.{group}.\1{part}.\2")
            for group, part, ours in CAVPT
        ),
    ),
    _apart,
    _together,
)
NAMES = {"coop": COOP, "cocoop": COCOOP, "mvlpt": MVLPT, "dpt": DPT, "dplclip": DPLCLIP}


class Inert:
    """What stands for any class that a pickled file names: it keeps nothing and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        """Make one, whatever it is called with."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


def load_inert(path: str | Path) -> Any:
    """Open a checkpoint with `weights_only=True`, classes it names replaced by `Inert`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that does not open so.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    serialization = torch.serialization
    try:
        strangers = serialization.get_unsafe_globals_in_checkpoint(path)
        with serialization.safe_globals([(Inert, name) for name in strangers]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: does not open without running pickled code ({error})") from error


def find_file(folder: Path, module: str, epoch: int | None) -> Path:
    """`<folder>/<module>/model.pth.tar-<epoch>`, of the last epoch where none is given.

    Raises:
        FileNotFoundError: no such file.
    """
    files = {int(p.name.rpartition("-")[2]): p for p in (folder / module).glob("model.pth.tar-*")}
    best = folder / module / "model-best.pth.tar"
    if epoch is None and (files or best.exists()):
        return files[max(files)] if files else best
    if epoch not in files:
        raise FileNotFoundError(f"{folder / module}: no model.pth.tar-{epoch or '<epoch>'}; there are {sorted(files)}")
    return files[epoch]


def read_dassl(folder: str | Path, modules: tuple[str, ...], epoch: int | None = None) -> tuple[State, list[str]]:
    """Weights of some modules of a Dassl run, keys with their module in front, and the derived keys left out."""
    state: State = {}
    for module in modules:
        content = load_inert(find_file(Path(folder), module, epoch))
        for key, value in content["state_dict"].items():
            state[f"{module}.{key.removeprefix('module.')}"] = value.float()
    dropped = [key for key in state if DERIVED.fullmatch(key)]
    return {k: v for k, v in state.items() if k not in dropped}, dropped


def names_of(head: nn.Module) -> PromptNames:
    """The official names of a head's weights.

    Raises:
        ValueError: a head that no Dassl trainer has.
    """
    name = next((m.name for m in METHODS.values() if m.obj is type(head)), type(head).__name__)
    if name not in NAMES:
        raise ValueError(f"no Dassl trainer writes a {name!r}; {did_you_mean(name, NAMES)}")
    return NAMES[name]


def load_dassl(head: nn.Module, folder: str | Path, epoch: int | None = None) -> list[str]:
    """Load a Dassl run into a head.

    Args:
        head: CoOp, CoCoOp, MVLPT or DPT, of the sizes of the run.
        folder: with one folder per module.
        epoch: which epoch's file; None for the last one.

    Returns:
        Official keys that were left out: those that follow from the class names, and the classifiers of DPT's
        class-aware blocks where the classes are others.

    Raises:
        ValueError: weights that are missing, unknown, or of another shape, named.
    """
    names = names_of(head)
    official, dropped = read_dassl(folder, names.modules, epoch)
    state, own = names.to_ours(official), dict(head.named_parameters())
    for key in [k for k in state if k.endswith("classifier.weight") and k in own and state[k].shape != own[k].shape]:
        state[key] = own[key].detach()
        dropped += names.to_official({key: state[key]})
    shapes = {k: tuple(tuple(s[k].shape) if k in s else None for s in (state, own)) for k in {**state, **own}}
    wrong = {k: v for k, v in shapes.items() if v[0] != v[1]}
    if wrong:
        raise ValueError(f"{folder} does not fit this {type(head).__name__} (name: file's shape, ours): {wrong}")
    head.load_state_dict(state, strict=False)
    return dropped


def save_dassl(head: Any, folder: str | Path, epoch: int) -> list[Path]:
    """Write a head the way Dassl does, `token_prefix` and `token_suffix` included; the files written."""
    names, files = names_of(head), []
    state = names.to_official({k: p.detach().cpu() for k, p in head.named_parameters()})
    for module in names.modules:
        own = {k.removeprefix(f"{module}."): v for k, v in state.items() if k.startswith(f"{module}.")}
        if module == LEARNER:
            own |= {"token_prefix": head.prompts.prefix.cpu(), "token_suffix": head.prompts.suffix.cpu()}
        path = Path(folder) / module / f"model.pth.tar-{epoch}"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"state_dict": own, "epoch": epoch, "optimizer": None, "scheduler": None, "val_result": None}
        torch.save(content, path)
        files.append(path)
    return files


def load_tip_keys(head: Any, path: str | Path) -> None:
    """Load Tip-Adapter-F's `best_F_<K>shots.pt`, a bare tensor (N, D), into a head.

    Raises:
        ValueError: another shape.
    """
    keys = load_inert(path)
    if not isinstance(keys, Tensor) or keys.shape != head.keys.shape:
        found = tuple(keys.shape) if isinstance(keys, Tensor) else type(keys).__name__
        raise ValueError(f"{path}: expected keys {tuple(head.keys.shape)}, found {found}")
    head.keys.data.copy_(keys.float())


def save_tip_keys(head: Any, path: str | Path) -> None:
    """Write a head's keys like Tip-Adapter-F's `best_F_<K>shots.pt`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(nn.Parameter(head.keys.detach().cpu()), path)
