"""Protocols of methods that draw their own samples, and the public splits of the two-stage paper.

Papers: CLIP-LoRA (arXiv 2405.18541), LP++ (2404.02285), ProLIP (2410.05270), 2SFS (2503.11609).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmodal.evaluation.plans import Labeled, Plan, Protocol, only, whole
from xmodal.evaluation.sampling import base_and_new, draw_both, draw_reduced, harmonic_mean

DRAWS = ("clip_lora", "lp_plus_plus", "lp_plus_plus_reduced")


@dataclass(frozen=True)
class OwnDraw(Protocol):
    """K shots as a paper's own code draws them; classes with too few images repeat some.

    Args:
        draw: `clip_lora` (min(K, 4) validation images first), `lp_plus_plus` (K training, then K validation images, as
            in ProLIP) or `lp_plus_plus_reduced` (its draw on six data sets, the same images for every seed).

    Raises:
        ValueError: another draw.
    """

    draw: str = "clip_lora"
    name: ClassVar[str] = "own-draw"

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise ValueError(f"draw={self.draw!r}: choose one of {', '.join(DRAWS)}")

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train, validate and test."""
        if self.draw == "clip_lora":
            train, val = draw_both(data.train, data.val, shots, seed, min(shots, 4), val_first=True)
        else:
            draw = draw_reduced if self.draw.endswith("reduced") else draw_both
            train, val = draw(data.train, data.val, shots, seed)
        parts = [whole(data, "train", train)], [whole(data, "val", val)]
        return Plan(self.name, shots, seed, *parts, {data.name: whole(data, "test")})


@dataclass(frozen=True)
class PublicSplits(Protocol):
    """The training sets that the two-stage paper publishes, `shot_<K>-seed_<S>_train.jsonl`; there is no validation.

    Args:
        folder: with these files, `<data set>/split_fewshot` in the release.
        base_to_new: train on the first half of the classes, and report both halves and their harmonic mean.
    """

    folder: str = ""
    base_to_new: bool = False
    name: ClassVar[str] = "public-splits"

    def plan(self, data: Labeled, shots: int, seed: int, targets: Sequence[Labeled] = ()) -> Plan:
        """Choose the parts that train and test."""
        rows = read_jsonl_split(Path(self.folder) / f"shot_{shots}-seed_{seed}_train.jsonl", data, shots)
        train, test = whole(data, "train", rows), whole(data, "test")
        if not self.base_to_new:
            return Plan(self.name, shots, seed, [train], [], {data.name: test})
        base, new = base_and_new([data.train[i] for i in rows])
        tests = {"base": only(test, base), "new": only(test, new)}
        return Plan(self.name, shots, seed, [only(train, base)], [], tests)

    def summary(self, scores: dict[str, float]) -> dict[str, float]:  # type: ignore[override]
        """The harmonic mean of base and new; the paper takes it of the means over seeds."""
        return {"harmonic_mean": harmonic_mean(scores["base"], scores["new"])} if "base" in scores else {}


def read_jsonl_split(path: Path, data: Labeled, shots: int) -> list[int]:
    """Indices into a data set's training split of the lines of a public split file.

    Raises:
        ValueError: no such file, an image that the data set does not have, another label, or not K lines a class.
    """
    if not path.is_file():
        raise ValueError(
            f"no split file at {path}; unpack jsonl_{shots}shot.tar of the two-stage paper's release there"
        )
    known = {name: i for i, name in enumerate(data.names)}
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        entry = json.loads(line)
        parts = Path(entry["_impath"]).parts
        row = next((known[n] for i in range(len(parts)) if (n := "/".join(parts[i:])) in known), None)
        if row is None:
            raise ValueError(f"{path}, line {number}: {entry['_impath']} is no training image of {data.name}")
        if int(entry["_label"]) != data.train[row]:
            raise ValueError(f"{path}, line {number}: label {entry['_label']}, but {data.train[row]} in {data.name}")
        rows.append(row)
    wrong = {label: n for label, n in Counter(data.train[i] for i in rows).items() if n != shots}
    if wrong or not rows:
        raise ValueError(f"{path}: {len(rows)} lines; classes without {shots} of them: {wrong}")
    return rows
