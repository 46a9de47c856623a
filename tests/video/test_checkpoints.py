"""Official checkpoint layouts, in and out."""

import pytest
import torch

from tests.parity.core import Case
from video.checkpoints import EVL, ST_ADAPTER
from xmodal.official.names import find_converter, read_official


def official(name, prefix=""):
    case = Case.load(f"tests/parity/cases/{name}_dev.json")
    own = ("adapter_", "fc.", "decoder.", "proj.")
    keep = lambda k: not k.startswith("visual.") and ("adapter_" in k or k.startswith(own))  # noqa: E731
    return {prefix + k: v for k, v in case.state().items() if keep(k)}


@pytest.mark.parametrize(("converter", "name"), [(ST_ADAPTER, "st_adapter"), (EVL, "evl")])
def test_round_trip_is_exact(converter, name, tmp_path):
    state = official(name, converter.prefix)
    torch.save({"model": state, "optimizer": {"lr": 0.1}, "next_epoch": 3}, tmp_path / "checkpoint-3.pth")
    read = read_official(tmp_path / "checkpoint-3.pth")
    assert find_converter(read) is converter
    ours = converter.to_ours(read)
    assert not set(ours) & set(read)
    back = converter.to_official(ours)
    assert set(back) == set(state)
    assert all(torch.equal(back[k], state[k]) for k in state)


def test_unknown_keys_and_unsafe_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="another method"):
        ST_ADAPTER.to_ours({"foo.bar": torch.zeros(1)})
    with pytest.raises(ValueError, match="--method"):
        find_converter({"foo.bar": torch.zeros(1)})
    torch.save({"model": object()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="pickled code"):
        read_official(tmp_path / "bad.pth")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        read_official(tmp_path / "gone.pth")
