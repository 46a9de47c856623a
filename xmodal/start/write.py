"""Look at own data, split them, and write the config that trains on them."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from typing import Any

import torch
from mmengine.device import get_device

from xmodal.data.annotations import Sample, write_list
from xmodal.data.walk import printable
from xmodal.engine.classes import SHOWN, UNEVEN
from xmodal.engine.config import load_config
from xmodal.registry import ENCODERS, build
from xmodal.start import config_text, found, look, recipes, split
from xmodal.start.split import kinds_of


@dataclass(frozen=True)
class Wish:
    """The options of `xmodal new`.

    Args:
        source: folder or list.
        task: `video`, `image` or `cloud`; default: told from the files.
        encoder: see `recipes.encoder_of`; default: CLIP's ViT-B/16, or the tiny CLIP where its weights are not at hand.
        method: a key of `recipes.METHODS`; default: one that suits task and machine.
        out: path of the config; default: the name of the source.
        root: folder that the paths of lists start from.
        classes: file of class names.
        seed: of the split.
        workers: processes that look at the files.
        tool: the command of a tool of xmodal, by its name.
    """

    source: str
    task: str | None = None
    encoder: str | None = None
    method: str | None = None
    out: str | None = None
    root: str | None = None
    classes: str | None = None
    seed: int = 0
    workers: int | None = None
    tool: Callable[[str], str] = "xmodal {}".format

    @property
    def target(self) -> Path:
        """Return the path of the config.

        Raises:
            ValueError: no name of a Python file, or a file that is there already.
        """
        source = Path(self.source)
        stem = source.stem if source.is_file() else source.resolve().name
        path = Path(self.out or f"{re.sub(r'[^A-Za-z0-9]+', '_', stem).strip('_') or 'own'}.py")
        if path.suffix != ".py":
            raise ValueError(f"--out {path}: a config ends in .py")
        if path.exists():
            raise ValueError(f"{path} is there already: --out takes another name")
        return path


def write(wish: Wish, say: Callable[[str], Any] = print) -> Path:
    """Write a config for own data, and say what was found and what to run next.

    Returns:
        The path of the config.

    Raises:
        ValueError: data that cannot be understood, with the fix; a config that is there already.
    """
    target, tool = wish.target, wish.tool
    data = found.find(wish.source, wish.task, wish.root, wish.classes)
    seen = look.look(data.task, [s for part in data.parts.values() for s in part], wish.workers)
    parts = divide(data, seen, wish.seed)
    tower, note = tower_of(wish.encoder)
    plan = plan_of(wish, target, data, seen, parts, tower)
    for line in report(data, seen, parts, plan, note):
        say(line)
    plan.lists.mkdir(parents=True, exist_ok=True)
    for part, samples in parts.items():
        write_list(plan.lists / f"{part}.txt", samples)
    target.write_text(config_text.text_of(plan))
    load_config(target)  # a fault shows now and not in training
    say(f"\nwrote {target} and the lists in {plan.lists.name}. Next:")
    example = shlex.quote(printable(next(iter(parts.get("test") or parts["val"])).path))
    best = shlex.quote(f"work_dirs/{target.stem}/best.pth")
    say(f"  {tool('train')} {shlex.quote(str(target))}\n  {tool('test')} {best}\n  {tool('predict')} {best} {example}")
    return target


def plan_of(
    wish: Wish,
    target: Path,
    data: found.Found,
    seen: look.Look,
    parts: dict[str, list[Sample]],
    tower: recipes.EncoderRecipe,
) -> config_text.Draft:
    """Return all that the config says."""
    gpu = get_device() != "cpu"
    key = recipes.method_of(wish.method, data.task, tower, gpu)
    counted = {part: len(samples) for part, samples in parts.items()}
    words = ", ".join(f"{count} {part}" for part, count in counted.items())
    what = f"{len(data.classes)} classes, {words} {data.task}s"
    return config_text.Draft(
        title=f"{recipes.METHODS[key].title} on {tower.name} for {Path(wish.source).name}: {what}.",
        command=f"{wish.tool('new')} {shlex.quote(wish.source)}",
        train=f"{wish.tool('train')} {shlex.quote(str(target))}",
        task=data.task,
        method=key,
        encoder=tower,
        scale=recipes.scale(recipes.METHODS[key], tower, len(parts["train"]), gpu, data.task),
        classes=data.classes,
        lists=target.absolute().with_name(f"{target.stem}_split"),
        parts=counted,
        seconds=median_high(known) if (known := [f["seconds"] for f in seen.facts if f.get("seconds")]) else None,
        multilabel=data.multilabel,
        uneven=uneven(parts["train"], data.classes),
        workers=min(4, (os.cpu_count() or 2) - 1),
        **sizes_of(tower),
    )


def divide(data: found.Found, seen: look.Look, seed: int) -> dict[str, list[Sample]]:
    """Return the samples of each split that can be read and have a class; what lacks a split gets one.

    Raises:
        ValueError: fewer than two classes, or nothing to train on.
    """
    classless = lambda s: s.label < 0 and s.labels is None  # noqa: E731
    for part, samples in data.parts.items():
        if count := sum(map(classless, samples)):
            data.notes.append(f"{count} {data.task}s of {part} have no class in the lists and are left out")
    parts = {
        part: [s for s in samples if s.path not in seen.broken and not classless(s)]
        for part, samples in data.parts.items()
    }
    parts = {part: without_repeats(samples, data) for part, samples in parts.items() if samples}
    used = {kind for samples in parts.values() for s in samples for kind in kinds_of(s) if kind >= 0}
    if len(used) < 2 and not data.multilabel:
        have = f"only the class {data.classes[min(used)]!r}" if used else "no class"
        raise ValueError(
            f"the {data.task}s have {have}; at least two are needed, such as a folder of {data.task}s for each class"
        )
    groups = dict(data.groups)
    for members in seen.equal:  # equal files stay in one split
        known = next((groups[path] for path in members if path in groups), f"equal to {members[0]}")
        for path in members:
            groups.setdefault(path, known)
    if "all" in parts:
        parts = split.split(parts["all"], groups, seed)
        data.notes.append("no split was there: 70 % train, 15 % val, 15 % test, alike in every class" + (
            f", {len(set(data.groups.values()))} groups kept together" if data.groups else ""))  # fmt: skip
    elif "val" not in parts:
        own = split.split(parts["train"], groups, seed, {"train": 0.85, "val": 0.15})
        parts = {"train": own["train"], "val": own["val"], **{k: v for k, v in parts.items() if k == "test"}}
        data.notes.append("no validation split was there: 15 % of the training files of every class")
    parts = {part: parts[part] for part in ("train", "val", "test") if parts.get(part)}
    if "train" not in parts or "val" not in parts:
        raise ValueError(f"too few {data.task}s for a training and a validation split: two a class at least")
    return parts


def without_repeats(samples: list[Sample], data: found.Found) -> list[Sample]:
    """Return a split's samples, each once; note the others, and files that are listed with different classes."""
    kept = {(sample.path, sample.label, sample.labels): sample for sample in samples}
    if len(kept) < len(samples):
        data.notes.append(f"{len(samples) - len(kept)} of the entries repeat others and count once")
    times = Counter(path for path, _, _ in kept)
    torn = [path for path, count in times.items() if count > 1]
    if torn:
        data.notes.append(f"WARNING: {len(torn)} files are listed with different classes, such as {printable(torn[0])}")
    return list(kept.values())


def tower_of(name: str | None) -> tuple[recipes.EncoderRecipe, str]:
    """Return the encoder of a config, and a note where it is not the usual one.

    The default's weights are fetched here, so that what is missing shows before training.
    """
    if name is not None:
        return recipes.encoder_of(name), ""
    from xmodal.encoders.openclip_weights import open_clip_encoder

    try:
        open_clip_encoder(recipes.DEFAULT, pretrained="openai")
    except (FileNotFoundError, OSError, ValueError) as error:
        why = str(error).splitlines()[0][:160]
        note = (
            f"encoder: the tiny CLIP that ships with xmodal, as CLIP's weights are not at hand ({why}); it knows drawn "
            f"shapes, not photos: --encoder {recipes.DEFAULT} is the usual choice where a network is"
        )
        return recipes.encoder_of(recipes.TINY), note
    return recipes.encoder_of(recipes.DEFAULT), ""


def sizes_of(tower: recipes.EncoderRecipe) -> dict[str, int]:
    """Return width, heads and image size of an encoder, without its weights."""
    with torch.device("meta" if tower.name != recipes.TINY else "cpu"):
        built = build(dict(tower.cfg), ENCODERS)
    return {"dim": built.dim, "heads": built.num_heads, "size": built.image_size}


def uneven(samples: list[Sample], classes: list[str]) -> str:
    """Say how far the classes of training are out of balance; empty where they are not."""
    counts = Counter(kind for sample in samples for kind in kinds_of(sample) if kind >= 0).most_common()
    if len(counts) < 2 or counts[0][1] < UNEVEN * counts[-1][1]:
        return ""
    return f"{counts[0][1]} of {classes[counts[0][0]]}, {counts[-1][1]} of {classes[counts[-1][0]]}"


def report(
    data: found.Found, seen: look.Look, parts: dict[str, list[Sample]], plan: config_text.Draft, note: str
) -> list[str]:
    """Return the lines that say what was found."""
    total = sum(len(part) for part in data.parts.values())
    lines = [f"{total} {data.task}s: {data.layout}" + (", several classes each" if data.multilabel else "")]
    counts = {part: Counter(k for s in samples for k in kinds_of(s)) for part, samples in parts.items()}
    lines.append(f"{len(data.classes)} classes ({' / '.join(parts)}):")
    shown = list(enumerate(data.classes))[:40]
    wide = max(len(printable(name)) for _, name in shown)
    lines += [f"  {printable(n):{wide}}  {' / '.join(str(counts[p][i]) for p in parts)}" for i, n in shown]
    lines += [f"  ... and {len(data.classes) - 40} more"] if len(data.classes) > 40 else []
    lines += look.lines(seen, data.task)
    if seen.broken:
        lines.append(f"{len(seen.broken)} cannot be read and are left out:")
        lines += [f"  {printable(path)}: {printable(why)}" for path, why in list(seen.broken.items())[:SHOWN]]
    pairs = look.shared(seen.equal, parts)
    if pairs:
        first = " = ".join(map(printable, dict.fromkeys(pairs[0])))
        lines.append(f"WARNING: {len(pairs)} files are in two splits by their content, so scores are too good: {first}")
    elif seen.equal:
        lines.append(f"{sum(map(len, seen.equal))} files are equal to others; equal ones are in one split")
    lines += data.notes
    if plan.uneven:
        lines.append(f"classes are out of balance: {plan.uneven}; the config names two ways to weigh them")
    lines += [note] if note else []
    lines.append(f"method: {plan.recipe.title} on {plan.encoder.name}, {plan.size} px; {plan.scale.why}")
    return lines
