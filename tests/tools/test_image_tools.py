"""Folding a checkpoint into a plain timm model, and choosing modules by their intrinsic dimension."""

import pytest
import safetensors.torch
import timm
import torch

from tests.xmodal.adapters.towers import refill
from tools import demo_image, lid, merge, select_features
from xmodal.encoders.tiny import facts
from xmodal.engine.checkpoint import FORMAT, own_state, write
from xmodal.engine.config import load_config
from xmodal.registry import MODELS, build

pytest.importorskip("sklearn")
CONFIG = "configs/image/lora_tiny-clip_48_digits.py"


@pytest.fixture
def trained(tmp_path):
    """A model with weights like trained ones, and its checkpoint."""
    model = build(load_config(CONFIG).model, MODELS).eval()
    refill(model, 0.1, only=lambda p: p.requires_grad)
    meta = {"format": FORMAT, "encoder": model.frozen_fingerprint()}
    write(tmp_path / "last.pth", {"state_dict": own_state(model), "meta": meta})
    return model, str(tmp_path / "last.pth")


def test_merged_file_loads_into_timm(trained, tmp_path, capsys):
    model, checkpoint = trained
    assert merge.main([CONFIG, checkpoint, str(tmp_path / "merged.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "largest error" in said
    vision = facts()["vision"]
    plain = timm.create_model(
        "vit_base_patch16_clip_quickgelu_224",
        img_size=vision["image_size"],
        patch_size=vision["patch_size"],
        embed_dim=vision["dim"],
        depth=vision["depth"],
        num_heads=vision["num_heads"],
        num_classes=10,
    ).eval()
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "merged.safetensors"))
    images = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), model(mode="tensor", image=images), atol=1e-3, rtol=1e-3)


def test_merge_refuses_what_cannot_be_folded_and_what_is_too_far_off(trained, tmp_path, capsys):
    _, checkpoint = trained
    target = str(tmp_path / "merged.pth")
    assert merge.main([CONFIG, checkpoint, target, "--tolerance", "1e-12"]) == 2
    assert "more than --tolerance" in capsys.readouterr().err
    assert merge.main(["configs/image/noah_tiny-clip_48_digits.py", checkpoint, target]) == 2
    assert not (tmp_path / "merged.pth").exists()


def test_a_folder_of_images_is_predicted(trained, tmp_path, capsys):
    """The tool takes folders of images as it takes those of videos and clouds; a broken one does not stop the rest."""
    import json

    from PIL import Image

    from tools import predict

    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    Image.new("RGB", (60, 50), (200, 10, 10)).save(folder / "red.png")
    Image.new("RGB", (48, 48), (10, 10, 200)).save(folder / "more" / "blue.jpg")
    (folder / "torn.jpg").write_bytes(b"no picture")
    (folder / "notes.md").write_text("left alone")
    data = {"type": "images", "annotation": "", "transforms": [{"type": "image_resize", "size": [48, 48]}]}
    words = [CONFIG, trained[1], str(folder), "missing.png", "--json", "--top", "3", "--min-score", "0.05"]
    assert predict.main([*words, "--cfg-options", f"test_dataloader.dataset={data}"]) == 0
    rows = {row["file"].rpartition("/")[2]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"red.png", "blue.jpg", "torn.jpg", "missing.png"}
    assert "error" in rows["torn.jpg"]
    assert rows["missing.png"]["error"] == "no file at missing.png"
    for name in ("red.png", "blue.jpg"):
        assert sum(rows[name]["scores"]) == pytest.approx(1, abs=1e-4)
        assert 0 < len(rows[name]["top"]) <= 3
        assert all(entry["score"] >= 0.05 for entry in rows[name]["top"])


def test_modules_by_intrinsic_dimension(capsys):
    assert lid.main([CONFIG, "--images", "60", "--neighbors", "10"]) == 0
    said = capsys.readouterr().out
    values = [float(line.split()[1]) for line in said.splitlines() if line.startswith("blocks.")]
    assert len(values) == 8
    assert values == sorted(values)
    assert "kadaptation takes targets=" in said
    assert lid.main([CONFIG, "--images", "9"]) == 2


def test_selected_features_shrink_the_head(tmp_path, capsys):
    config, keep = "configs/image/vqt_tiny-clip_48_digits.py", str(tmp_path / "keep.json")
    cfg = load_config(config, ["model.head.column_penalty=1e-2"])
    model = build(cfg.model, MODELS)
    images = torch.randn(2, 3, 48, 48)
    losses = model(mode="loss", image=images, label=torch.tensor([0, 1]))
    assert float(losses["loss_columns"]) == pytest.approx(1e-2 * float(model.head.fc.weight.norm(dim=0).sum()))
    meta = {"format": FORMAT, "encoder": model.frozen_fingerprint()}
    write(tmp_path / "last.pth", {"state_dict": own_state(model), "meta": meta})
    assert select_features.main([config, str(tmp_path / "last.pth"), keep, "--fraction", "0.25"]) == 0
    assert "of the head's weight" in capsys.readouterr().out
    small = build(load_config(config, [f"model.reader.keep={keep}"]).model, MODELS)
    small.reader.queries = model.reader.queries
    whole = model.features(image=images)
    assert small.head.fc.in_features == whole.shape[1] // 4
    torch.testing.assert_close(small.features(image=images), whole[:, small.reader.keep])
    (tmp_path / "keep.json").write_text("[99999]")
    with pytest.raises(ValueError, match="indices from 0"):
        build(load_config(config, [f"model.reader.keep={keep}"]).model, MODELS)


@pytest.mark.slow
def test_digits_demo(tmp_path, capsys):
    options = ["--shots", "4", "--seeds", "0", "1", "--epochs", "3", "--towers", "tiny_clip_encoder"]
    rows = ["--rows", "linear probe", "lora", "vqt", "full fine-tuning"]
    assert demo_image.main([*options, *rows, "--out", str(tmp_path)]) == 0
    assert len((tmp_path / "table.md").read_text().splitlines()) == 8
    page = (tmp_path / "report.html").read_text()
    assert "<img" in page
    assert page.count("tiny_clip_encoder, lora") >= 2  # in the table and above its own part
    assert demo_image.main([*options, "--rows", "lora", "--tune", "--epochs", "1"]) == 0
    assert "best" in capsys.readouterr().out
    assert demo_image.main(["--rows", "nothing"]) == 2
