"""Look up names of encoders in open_clip and timm."""

import difflib

import open_clip
import timm


def open_clip_tags(name: str) -> list[str]:
    """Return the tags of an open_clip model's pretrained weights; empty when it has no such model."""
    return list(open_clip.list_pretrained_tags_by_model(name))


def timm_name(name: str) -> tuple[bool, list[str]]:
    """Return whether timm has a model of a name, and near names of timm and open_clip where it has not."""
    if name.startswith("clip/") or timm.is_model(name.split(".")[0]):
        return True, []
    known = [*timm.list_models(), *open_clip.list_models()]
    return False, difflib.get_close_matches(name, known, n=3)
