"""Adapters on their way to a hub and back, without a network: huggingface_hub's calls end in a local folder."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch

import xmodal


def tower():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch):
    """A folder in the place of huggingface.co."""
    root = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo, exist_ok=False, **options):
            (root / repo).mkdir(parents=True, exist_ok=exist_ok)
            return f"https://huggingface.co/{repo}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def download(repo, allow_patterns):
        if not (root / repo).exists():
            raise OSError(f"404: {repo}\nmore words")
        return str(root / repo)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return root


def test_two_adapters_go_up_and_come_back(hub: Path):
    images = torch.randn(2, 3, 32, 32)
    model = xmodal.adapt(tower(), "lora", rank=2, num_classes=3, name="birds").add("ssf", "cars", num_classes=4).eval()
    want = {}
    for name in ("birds", "cars"):
        for parameter in model.use(name).trained().values():
            parameter.data += 0.1
        want[name] = model(images)
        assert model.push_to_hub(f"me/{name}", "81.2 % top-1", "python train.py").endswith(f"me/{name}")
    back = xmodal.from_pretrained(tower(), "me/birds").load("me/cars").eval()
    assert torch.equal(back(images), want["cars"])
    assert torch.equal(back.use("birds")(images), want["birds"])


def test_the_card_says_what_it_is(hub: Path):
    model = xmodal.adapt(tower(), "lora", rank=2, num_classes=3)
    model.push_to_hub("me/birds", "81.2 % top-1", "python train.py --seed 1")
    card = (hub / "me/birds/README.md").read_text()
    assert card.startswith("---\nlibrary_name: xmodal\nbase_model: vit_tiny_patch16_224\n")
    for words in (model.frozen_fingerprint()["sha256"], "`lora` adapter (rank=2)", "81.2 % top-1", "--seed 1",
                  'xmodal.from_pretrained(base, "me/birds")'):  # fmt: skip
        assert words in card


def test_other_towers_and_missing_repositories_are_refused(hub: Path, tmp_path: Path):
    xmodal.adapt(tower(), "lora", num_classes=3).push_to_hub("me/birds")
    torch.manual_seed(1)
    other = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    with pytest.raises(ValueError, match=r"was trained on vit_tiny_patch16_224 .* not on this tower"):
        xmodal.from_pretrained(other, "me/birds")
    with pytest.raises(
        FileNotFoundError, match=r"no folder me/fish, and huggingface.co does not give it: 404: me/fish$"
    ):
        xmodal.from_pretrained(tower(), "me/fish")
    with pytest.raises(FileNotFoundError, match=r"no adapter in .*nothing"):
        xmodal.from_pretrained(tower(), tmp_path / "nothing")
