"""Give data sets the encoder's input size, and refuse sizes and frame counts that do not fit together."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from xmodal.data.loader import build_dataset
from xmodal.registry import DATASETS, TRANSFORMS, resolve

# Arguments that are pixels and whose default is None: what they are for an encoder of a size.
FROM_ENCODER: dict[str, Callable[[int], int]] = {
    "size": lambda side: side,
    "low": lambda side: side,
    "high": lambda side: side * 258 // 224,  # the video recipes': 224 to 258
}
ANY_SIZE = ("resnet", "bit", "convnext", "efficientnet")  # families without positions: convolutions take every size


def input_size(model: Any) -> int | None:
    """Return the side in pixels of the images that a model's encoder reads; None where it reads no images."""
    model = getattr(model, "module", model)
    side = getattr(getattr(model, "encoder", None), "image_size", None)
    return side if isinstance(side, int) else None


def sized(cfg: Any, side: int | None) -> Any:
    """Return the config of a data set in which sizes that are not given are those of the encoder.

    Args:
        cfg: config of a data set, its transforms included.
        side: from `input_size`; None leaves the config as it is.
    """
    if side is None or not isinstance(cfg, Mapping) or "type" not in cfg:
        return cfg
    filled = {**cfg, **missing_sizes(resolve(cfg["type"], DATASETS), cfg, side)}
    transforms = cfg.get("transforms")
    if isinstance(transforms, list | tuple):
        filled["transforms"] = [
            {**t, **missing_sizes(resolve(t["type"], TRANSFORMS), t, side)}
            if isinstance(t, Mapping) and "type" in t
            else t
            for t in transforms
        ]
    return filled


def dataset_for(model: Any, cfg: Any, seed: int = 0) -> Any:
    """Build a data set; sizes that its config does not give are those of the model's encoder."""
    return build_dataset(sized(cfg, input_size(model)), seed=seed)


def missing_sizes(kind: Any, given: Mapping[str, Any], side: int) -> dict[str, int]:
    """Return the sizes that a part takes from the encoder, as its config does not give them."""
    takes = inspect.signature(kind).parameters
    return {
        key: size(side)
        for key, size in FROM_ENCODER.items()
        if key in takes and takes[key].default is None and given.get(key) is None
    }


def check_input(model: Any, dataset: Any, stage: str, train: Any = None) -> None:
    """Refuse data of another size than the encoder's, and clips of other lengths than the reader's or training's.

    Args:
        model: of the run.
        dataset: of the stage.
        stage: `train`, `val` or `test`.
        train: the training set, where there is one.

    Raises:
        ValueError: naming the numbers, the key and the fix.
    """
    side, got = input_size(model), pixels_of(dataset)
    model = getattr(model, "module", model)
    free = getattr(getattr(model, "encoder", None), "family", None) in ANY_SIZE
    if side is not None and got is not None and got != side and not free:
        raise ValueError(
            f"{stage}_dataloader gives images of {got} px, the encoder {model.encoder.name} reads {side} px: leave out "
            f"`size` there (it is the encoder's then), or set model.encoder.image_size={got}"
        )
    frames, of_reader = frames_of(dataset), getattr(getattr(model, "reader", None), "num_frames", None)
    key = f"{stage}_dataloader.dataset.num_frames"
    if frames is not None and isinstance(of_reader, int) and frames != of_reader:
        raise ValueError(f"{key}={frames}, but model.reader.num_frames={of_reader}: set both to one number")
    trained = frames_of(train)
    if frames is not None and trained is not None and frames != trained:
        raise ValueError(
            f"{key}={frames}, but train_dataloader.dataset.num_frames={trained}: a model is tested with as many frames "
            "as it was trained with, and with more of them by temporal_views"
        )


def pixels_of(dataset: Any) -> int | None:
    """Return the side of the square images that a data set gives; None where it does not say."""
    if getattr(dataset, "test_mode", False) and hasattr(dataset, "crops"):
        return dataset.crops.size
    for transform in reversed(getattr(dataset, "transforms", None) or ()):
        sides = getattr(transform, "sides", None)
        if sides is not None:
            return sides[0] if len(sides) == 2 and sides[0] == sides[1] else None
        if isinstance(getattr(transform, "size", None), int):
            return transform.size
    return None


def frames_of(dataset: Any) -> int | None:
    """Return the frames of a clip of a data set, None for other data."""
    return getattr(getattr(dataset, "sampling", None), "num_frames", None)
