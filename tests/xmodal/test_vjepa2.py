"""V-JEPA 2 as a video tower: transformers' class, official files, adapters and readers of videos, images."""

import pytest
import torch
from safetensors.torch import save_file

from tests.xmodal.adapters.towers import refill
from xmodal.encoders.vjepa2 import SIZES, VJEPA2
from xmodal.encoders.vjepa2_keys import to_transformers
from xmodal.encoders.vjepa2_weights import vjepa2_encoder
from xmodal.model import TransferModel

SMALL = dict(image_size=32, patch_size=8, dim=24, depth=2, num_heads=2)
HEAD = dict(type="classification", num_classes=3)


def small(**changes):
    torch.manual_seed(0)
    return refill(VJEPA2(**{**SMALL, **changes}), 0.2).eval()


@torch.no_grad()
def test_it_equals_the_class_of_transformers_and_reads_its_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.VJEPA2Config(
        patch_size=8, crop_size=32, frames_per_clip=4, hidden_size=24, num_attention_heads=2, num_hidden_layers=2,
        mlp_ratio=3.0, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    theirs = refill(transformers.VJEPA2Model(config), 0.2).eval()
    theirs.save_pretrained(tmp_path / "hub")
    ours = vjepa2_encoder(str(tmp_path / "hub"))
    for frames in (4, 6):
        clips = torch.randn(2, frames, 3, 32, 32)
        want = theirs(pixel_values_videos=clips, skip_predictor=True).last_hidden_state
        tokens = ours.forward_tokens(*ours.embed(clips.flatten(0, 1), frames))
        assert (tokens.unflatten(0, (2, -1)).flatten(1, 2) - want).abs().max() < 1e-5
        assert want.std() > 0.1
    back = to_transformers(ours.state_dict())
    own = {key: value for key, value in theirs.state_dict().items() if not key.startswith("predictor.")}
    assert back.keys() == own.keys()
    assert all(torch.equal(back[key], value) for key, value in own.items())
    classifier = {f"vjepa2.{k}": v.contiguous() for k, v in theirs.state_dict().items()} | {
        "classifier.bias": torch.ones(2)
    }
    save_file(classifier, tmp_path / "classifier.safetensors")
    again = vjepa2_encoder(str(tmp_path / "classifier.safetensors"), num_heads=2)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in ours.state_dict().items())
    (tmp_path / "hub" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        vjepa2_encoder(str(tmp_path / "hub"))


def official(tower):
    return {f"module.backbone.{key}": value for key, value in tower.library_state().items()}


@pytest.mark.parametrize("version", ["2.0", "2.1"])
@torch.no_grad()
def test_official_files(version, tmp_path):
    changes = dict(depth=12, patch_size=16) if version == "2.1" else {}
    tower = small(version=version, **changes)
    other = {key: value + 1 for key, value in official(tower).items()}
    old = {"module.backbone.pos_embed": torch.zeros(1, 5, 24)}
    torch.save({"encoder": other, "target_encoder": official(tower) | old, "epoch": 3}, tmp_path / "vitx.pt")
    loaded = vjepa2_encoder(str(tmp_path / "vitx.pt"), num_heads=2)
    assert loaded.name == "vjepa2/vitx.target_encoder"
    clip = torch.randn(4, 3, 32, 48)
    assert torch.equal(loaded.embed(clip, 4)[0], tower.embed(clip, 4)[0])
    assert torch.equal(loaded.forward_tokens(*loaded.embed(clip, 4)), tower.forward_tokens(*tower.embed(clip, 4)))
    torch.save({"encoder": other, "ema_encoder": official(tower)}, tmp_path / "dist.pt")
    assert vjepa2_encoder(str(tmp_path / "dist.pt"), num_heads=2).name.endswith(".ema_encoder")


def test_files_that_do_not_fit_are_refused(tmp_path):
    state = official(small())
    gone = {k: v for k, v in state.items() if not k.endswith("blocks.1.norm1.weight")}
    torch.save({"encoder": gone}, tmp_path / "gone.pt")
    with pytest.raises(ValueError, match=r"gone\.pt .*missing: blocks\.1\.norm1\.weight"):
        vjepa2_encoder(str(tmp_path / "gone.pt"), num_heads=2)
    torch.save({"encoder": state}, tmp_path / "narrow.pt")
    with pytest.raises(ValueError, match="width 24, which no released size has: say num_heads"):
        vjepa2_encoder(str(tmp_path / "narrow.pt"))
    torch.save({"encoder": {"module.backbone.fc.weight": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"no encoder of V-JEPA 2; .*fc\.weight"):
        vjepa2_encoder(str(tmp_path / "other.pt"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        vjepa2_encoder(str(tmp_path / "nowhere.pt"))
    with pytest.raises(ValueError, match="did you mean 'large'"):
        vjepa2_encoder("random", "larg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no config\.json"):
        vjepa2_encoder(str(tmp_path / "empty"))


def test_parameters_of_the_released_sizes():
    counts = {  # the specification's, by formula; 2.1 of the large size: of the public conversion
        ("large", "2.0"): 303_885_312, ("huge", "2.0"): 631_648_000, ("giant", "2.0"): 1_012_173_952,
        ("large", "2.1"): 304_680_960, ("giant", "2.1"): 1_013_267_968, ("base", "2.1"): 86_833_152,
        ("gigantic", "2.1"): 1_845_216_768,
    }  # fmt: skip
    for (size, version), wanted in counts.items():
        with torch.device("meta"):
            tower = VJEPA2(version=version, **SIZES[size])
        assert sum(p.numel() for p in tower.parameters()) == wanted, (size, version)


@torch.no_grad()
def test_an_image_is_a_clip_of_equal_frames():
    tower, images = small(), torch.randn(2, 3, 32, 32)
    clip = tower.embed(images.repeat_interleave(2, 0), 2)
    assert torch.equal(tower.embed(images)[0], clip[0])
    assert tower(images).shape == (2, 24)
    later = small(version="2.1", depth=12, patch_size=16)
    later.image_token.data += 1
    tokens, grid = later.embed(images)
    want = torch.nn.functional.conv2d(images, later.image_embed.proj.weight[:, :, 0], later.image_embed.proj.bias, 16)
    torch.testing.assert_close(tokens, want.flatten(2).transpose(1, 2) + later.image_token)
    assert (grid.t, grid.h, grid.w, grid.prefix) == (1, 2, 2, 0)


def test_frames_that_fill_no_tubelet():
    tower = small(tubelet=4)
    assert tower.embed(torch.randn(7, 3, 32, 32), 7)[1].t == 1
    with pytest.raises(ValueError, match="3 frames are fewer"):
        tower.embed(torch.randn(3, 3, 32, 32), 3)


def test_inner_levels_without_a_norm_are_refused():
    tower = small(version="2.1", depth=12, patch_size=16)
    tokens, grid = tower.embed(torch.randn(1, 3, 32, 32))
    assert [level.shape[-1] for level in tower.levels_of(tokens, grid)] == [24] * 4
    with pytest.raises(ValueError, match=r"no norm for the blocks \[3\]"):
        tower.levels_of(tokens, grid, [3])
    with pytest.raises(ValueError, match="depths 12, 24, 40, 48"):
        VJEPA2(version="2.1", depth=3)
    with pytest.raises(ValueError, match=r"2\.0 or 2\.1"):
        VJEPA2(version="3")


@pytest.mark.parametrize(
    ("adapters", "reader"),
    [
        ([dict(type="st_adapter", bottleneck=8)], dict(type="time_mean")),
        ([dict(type="lora", rank=2)], None),
        ([dict(type="vpt", num_tokens=2)], None),
        ([dict(type="aim", num_frames=2, hidden=8)], dict(type="time_mean")),
        ([], dict(type="attentive_probe", depth=1, per_frame=True, num_frames=2)),
        ([], dict(type="evl", num_frames=2, num_layers=2)),
    ],
    ids=["st-adapter", "lora", "vpt", "aim", "attention probe", "evl"],
)
def test_adapters_and_readers_of_videos_run_and_train(adapters, reader):
    model = TransferModel(small(), HEAD, adapters=adapters, reader=reader).train()
    clips = torch.randn(2, 1, 4, 3, 32, 32)
    model(mode="loss", clips=clips, label=torch.tensor([0, 2]))["loss"].backward()
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert sum(p.grad is not None and bool(p.grad.abs().sum()) for p in trained.values()) >= 2
    kept, grid = model.eval().frozen_part(clips=clips) if not adapters or adapters[0]["type"] == "lora" else ({}, None)
    if kept:
        torch.testing.assert_close(model.trained_part(kept, grid), model.features(clips=clips))


@torch.no_grad()
def test_the_order_of_frames_matters():
    tower = small()
    clip = torch.randn(4, 3, 32, 32)
    feature = tower.forward_tokens(*tower.embed(clip, 4)).mean((0, 1))
    swapped = tower.forward_tokens(*tower.embed(clip[[2, 3, 0, 1]], 4)).mean((0, 1))
    assert (feature - swapped).abs().max() > 1e-4
