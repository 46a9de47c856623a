"""Dassl and Tip-Adapter files: there and back, dropped keys named, pickled classes kept out."""

import pytest
import torch

from tests.xmodal.clips import NAMES, small_clip
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.heads.dpt import DPTHead
from xmodal.heads.mvlpt import MVLPTHead
from xmodal.heads.taskres import TaskResHead
from xmodal.heads.tip_adapter import TipAdapterHead
from xmodal.official.prompts import Inert, load_dassl, load_inert, load_tip_keys, save_dassl, save_tip_keys

MAKERS = {
    "coop": lambda c: CoOpHead(16, NAMES, c, n_ctx=3),
    "cocoop": lambda c: CoCoOpHead(16, NAMES, c, n_ctx=3),
    "mvlpt": lambda c: MVLPTHead(16, NAMES, c, n_ctx=2, n_visual=2, visual_project=5, project_dim=6),
    "taskres": lambda c: TaskResHead(16, NAMES, c),
    "dpt": lambda c: DPTHead(16, NAMES, c, n_ctx=2, n_visual=2, bottom=2),
}


@pytest.mark.parametrize("name", MAKERS)
def test_there_and_back(tmp_path, name):
    clip = small_clip()
    first, second = MAKERS[name](clip), MAKERS[name](clip)
    if name == "taskres":  # begins at zero
        first.residual.data.normal_()
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    files = save_dassl(first, tmp_path, 7)
    dropped = load_dassl(second, tmp_path)
    derived = ["base_text_features"] if name == "taskres" else ["token_prefix", "token_suffix"]
    assert dropped == [f"prompt_learner.{key}" for key in derived]
    assert all(f.name == "model.pth.tar-7" for f in files)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


class Runs:
    """Pickled into a checkpoint, it would run code when opened carelessly."""

    opened = False

    def __reduce__(self):
        return (touch, ("opened",))


def touch(name):
    setattr(Runs, name, True)


def test_optimizers_and_schedulers_in_the_file_stay_inert(tmp_path):
    clip = small_clip()
    head = MAKERS["coop"](clip)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    content = {
        "state_dict": {"ctx": torch.full((3, 20), 2.0), "token_prefix": torch.zeros(3, 1, 20)},
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "scheduler": {"successor": schedule, "evil": Runs()},
        "val_result": None,
    }
    (tmp_path / "prompt_learner").mkdir()
    torch.save(content, tmp_path / "prompt_learner" / "model.pth.tar-50")
    found = load_inert(tmp_path / "prompt_learner" / "model.pth.tar-50")
    assert isinstance(found["scheduler"]["successor"], Inert)
    assert not Runs.opened
    assert load_dassl(head, tmp_path) == ["prompt_learner.token_prefix"]
    assert (head.ctx == 2).all()


def test_old_names_of_the_unified_network(tmp_path):
    clip = small_clip()
    head = MAKERS["mvlpt"](clip)
    path = save_dassl(head, tmp_path, 1)[0]
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {k.replace("mvlpt_proj", "upt_proj"): v for k, v in content["state_dict"].items()}
    torch.save(content, path)
    assert any("upt_proj" in key for key in content["state_dict"])
    other = MAKERS["mvlpt"](clip)
    load_dassl(other, tmp_path)
    for (name, a), b in zip(head.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_classifiers_of_other_classes_are_left_out_and_named(tmp_path):
    clip = small_clip()
    save_dassl(MAKERS["dpt"](clip), tmp_path, 1)
    other = DPTHead(16, [*NAMES, "house"], clip, n_ctx=2, n_visual=2, bottom=2)
    dropped = load_dassl(other, tmp_path)
    assert "image_encoder.transformer.extractor.classfiers.0.weight" in dropped
    assert len(dropped) == 4


def test_what_does_not_fit_is_named(tmp_path):
    clip = small_clip()
    save_dassl(MAKERS["coop"](clip), tmp_path, 1)
    with pytest.raises(ValueError, match=r"ctx.*\(3, 20\).*\(5, 20\)"):
        load_dassl(CoOpHead(16, NAMES, clip, n_ctx=5), tmp_path)
    with pytest.raises(ValueError, match="meta_net"):
        load_dassl(MAKERS["cocoop"](clip), tmp_path)
    with pytest.raises(FileNotFoundError, match="there are"):
        load_dassl(MAKERS["coop"](clip), tmp_path, epoch=9)
    with pytest.raises(ValueError, match="no Dassl trainer"):
        load_dassl(torch.nn.Linear(2, 2), tmp_path)


def test_tip_keys(tmp_path):
    make = lambda: TipAdapterHead.from_shots(torch.randn(6, 4), torch.arange(6) % 3, torch.eye(3, 4), list("abc"))  # noqa: E731
    first, second = make(), make()
    save_tip_keys(first, tmp_path / "best_F_2shots.pt")
    load_tip_keys(second, tmp_path / "best_F_2shots.pt")
    assert torch.equal(first.keys, second.keys)
    torch.save(torch.ones(2, 2), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="expected keys"):
        load_tip_keys(second, tmp_path / "x.pt")
