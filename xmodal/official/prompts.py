"""Prompt learners in and out of the layout of Dassl, and Tip-Adapter's trained keys.

Dassl writes one folder per trained module, `<module>/model.pth.tar-<epoch>`, and pickles its optimizer and scheduler
beside the weights. Such files are opened with `weights_only=True`; whatever class they name is replaced by
an inert one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.keys import BLOCK
from xmodal.official.names import Converter, Pairs, State, check_fit
from xmodal.registry import METHODS, did_you_mean

DERIVED = re.compile(r"(.*\.)?(token_prefix|token_suffix|base_text_features)")
LEARNER = "prompt_learner"
VISUAL = "image_encoder.transformer"


@dataclass(frozen=True)
class DasslNames(Converter):
    """Names of a prompt learner's weights in the files of Dassl; official keys have their module in front.

    Args:
        modules: Dassl's folders.
        stacked: an official tensor whose rows are ours one by one, under the names `stacked.0`, `stacked.1`, ...
        derived: what follows from the class names and is written beside the weights: official name, our attribute.
    """

    modules: tuple[str, ...] = (LEARNER,)
    stacked: str = ""
    derived: Pairs = (("token_prefix", "prompts.prefix"), ("token_suffix", "prompts.suffix"))

    def to_ours(self, state: Mapping[str, Tensor]) -> State:
        """Translate official weights, the stacked one taken apart."""
        rows = {f"{self.stacked}.{i}": row for i, row in enumerate(state.get(self.stacked, ()))}
        return super().to_ours({**{k: v for k, v in state.items() if k != self.stacked}, **rows})

    def to_official(self, state: Mapping[str, Tensor]) -> State:
        """Translate our weights, the stacked one put together."""
        official = super().to_official(state)
        rows = sorted((k for k in official if self.stacked and re.fullmatch(rf"{re.escape(self.stacked)}\.\d+", k)),
                      key=lambda k: int(k.rpartition(".")[2]))  # fmt: skip
        stack = {self.stacked: torch.stack([official.pop(k) for k in rows])} if rows else {}
        return {**official, **stack}


PROJECTIONS = (
    ("vpt_pre", "visual_pre"),
    ("vpt_post", "visual_post"),
    ("coop_pre", "text_pre"),
    ("coop_post", "text_post"),
)


def unified(old: str) -> list[tuple[str, str]]:
    """Return names of MVLPT's unified network, which older files call `upt`."""
    projections = [(f"{LEARNER}.{old}_proj_ctx_{a}.{{w}}", f"unified.{b}.{{w}}") for a, b in PROJECTIONS]
    return projections + [
        (f"{LEARNER}.{old}_proj.resblocks.0.{a}{{w}}", f"unified.block.{b}{{w}}") for a, b in BLOCK.items()
    ]


CAVPT = (
    ("meta_nets", "", "meta_net"),
    ("attns", ".qmlp", "q"),
    ("attns", ".kmlp", "k"),
    ("attns", ".vmlp", "out"),
    ("lns", "", "norm"),
    ("classfiers", "", "classifier"),
    ("lns2", "", "prompt_norm"),
)
CONTEXT = (f"{LEARNER}.ctx", "ctx")
NAMES = {
    "coop": DasslNames("coop", [CONTEXT]),
    "cocoop": DasslNames("cocoop", [CONTEXT, (f"{LEARNER}.meta_net.{{x}}", "meta_net.{x}")]),
    "mvlpt": DasslNames(
        "mvlpt",
        [
            CONTEXT,
            (f"{LEARNER}.vpt_embeddings", "visual"),
            (f"{LEARNER}.vpt_embeddings_deep", "deep"),
            (f"{LEARNER}.vpt_proj.{{w}}", "visual_proj.{w}"),
            *unified("mvlpt"),
        ],
        older=unified("upt"),
    ),
    "dpt": DasslNames(
        "dpt",
        [
            CONTEXT,
            (f"{VISUAL}.ctx_learner.ctx", "visual"),
            (f"{VISUAL}.extractor.ctx.{{i}}", "cavpt.{i}.tokens"),
            *((f"{VISUAL}.extractor.{a}.{{i}}{b}.{{w}}", f"cavpt.{{i}}.{ours}.{{w}}") for a, b, ours in CAVPT),
        ],
        modules=(LEARNER, f"{VISUAL}.ctx_learner", f"{VISUAL}.extractor"),
        stacked=f"{VISUAL}.extractor.ctx",
    ),
    "taskres": DasslNames(
        "taskres",
        [(f"{LEARNER}.text_feature_residuals", "residual")],
        derived=[("base_text_features", "base")],
    ),
    "dplclip": DasslNames(
        "dplclip",
        [
            ("network.module.network.{x}", "network.{x}"),
            ("network.module.{x}", "network.{x}"),
            ("network.{x}", "network.{x}"),
        ],
        modules=("network",),
    ),
}


class Inert:
    """Placeholder for any class that a pickled file names; it does nothing."""

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


def names_of(head: nn.Module) -> DasslNames:
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
        head: CoOp, CoCoOp, MVLPT, DPT or TaskRes, of the sizes of the run.
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
    check_fit(folder, head, state, own)
    head.load_state_dict(state, strict=False)
    return dropped


def save_dassl(head: Any, folder: str | Path, epoch: int) -> list[Path]:
    """Write a head the way Dassl does, with what follows from its class names; returns the files."""
    names, files = names_of(head), []
    state = names.to_official({k: p.detach().cpu() for k, p in head.named_parameters()})
    for module in names.modules:
        own = {k.removeprefix(f"{module}."): v for k, v in state.items() if k.startswith(f"{module}.")}
        if module == LEARNER:
            own |= {theirs: attrgetter(ours)(head).cpu() for theirs, ours in names.derived}
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
