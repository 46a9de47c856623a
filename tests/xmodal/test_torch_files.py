"""Damaged, foreign, empty and pickled files end in one line that names them; no code of theirs runs."""

import errno
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from xmodal.atomic import replacing, write_text
from xmodal.torch_files import read_safetensors, read_torch


class Evil:
    def __reduce__(self):
        return (os.mkdir, (f"{os.environ['XMODAL_EVIL']}/ran",))


@pytest.fixture
def whole(tmp_path):
    torch.save({"a": torch.arange(10_000).float()}, tmp_path / "whole.pth")
    return tmp_path / "whole.pth"


def test_a_flipped_bit_is_noticed_anywhere_in_the_tensors(whole, tmp_path):
    """torch.load itself returns other numbers."""
    content = whole.read_bytes()
    start = content.index(torch.arange(1, 5).float().numpy().tobytes())
    for place in (start, start + 20_000, start + 39_000):
        odd = bytearray(content)
        odd[place] ^= 4
        (tmp_path / "odd.pth").write_bytes(odd)
        assert not torch.equal(torch.load(tmp_path / "odd.pth", weights_only=True)["a"], torch.arange(10_000).float())
        with pytest.raises(ValueError, match=r"odd\.pth is damaged: the checksum of .* does not agree"):
            read_torch(tmp_path / "odd.pth")
    assert torch.equal(read_torch(whole)["a"], torch.arange(10_000).float())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_named(whole, tmp_path, share):
    content = whole.read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.pth is (damaged|empty)"):
        read_torch(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"  <html lang=en>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (b"hello", "is a file of another kind"),
        (b"PK\x03\x04nothing more", "damaged or cut short"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, message):
    (tmp_path / "odd").write_bytes(content)
    for read in (read_torch, read_safetensors):
        with pytest.raises(ValueError, match=message if read is read_torch else "odd is "):
            read(tmp_path / "odd")


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XMODAL_EVIL", str(tmp_path))
    torch.save({"a": Evil()}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"a": Evil()}))
    for name in ("zip.pth", "bare.pth"):
        with pytest.raises(ValueError, match=f"{name} does not open without running pickled code.*refused"):
            read_torch(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_no_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_torch(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match="no regular file"):
            read_torch(tmp_path / name)


def test_safetensors(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert torch.equal(read_safetensors(tmp_path / "a.safetensors")["a"], torch.ones(3))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"cut\.safetensors is damaged"):
        read_safetensors(tmp_path / "cut.safetensors")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "old")
    with pytest.raises(TypeError), replacing(tmp_path / "deep" / "a.txt") as file:
        file.writelines([b"half", None])
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text() == "old"


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_text(tmp_path / "a.txt", "x")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())
