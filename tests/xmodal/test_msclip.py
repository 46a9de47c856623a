"""MS-CLIP and the UniCL towers: counts, sharing, fusion, transfer."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.parity.__main__ import CASES
from tests.parity.core import Case
from tests.xmodal.adapters import plain
from xmodal.encoders.frozen import count
from xmodal.encoders.msclip import MSCLIP, default_strides
from xmodal.encoders.msclip_conv import LateralAdapter
from xmodal.encoders.swin import SwinEncoder
from xmodal.encoders.unicl import unicl
from xmodal.losses import clip_loss
from xmodal.model import TransferModel
from xmodal.official import contrastive
from xmodal.official.names import find_converter
from xmodal.structures import Grid

SMALL = dict(depth=4, dim=32, num_heads=2, out_dim=16, vocab_size=40, context_length=8, image_size=32, patch_size=8)
LATERAL = dict(lateral_layers=(1, 2, 3), branch_blocks=(0, 1, 1), branch_dims=(8, 16, 32), lateral_strides=(4, 2, 1))
TEXT = torch.tensor([[1, 5, 39, 0], [1, 39, 0, 0]])


def small(**options):
    torch.manual_seed(0)
    return MSCLIP(**{**SMALL, **LATERAL, "stem_blocks": (1, 1), **options}).eval()


def test_counts_of_the_paper():
    with torch.device("meta"):
        shared = MSCLIP()
        assert count(shared) == 132_408_001
        assert count(shared.visual.branch) + count(shared.visual.lateral) == 3_971_280
        assert count(shared.visual.patch_embed) == 4_513_776
        assert count(MSCLIP(share=())) == 210_340_801
        assert count(unicl()) == 91_340_667
        assert count(unicl(swin_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))) == 150_695_609


def test_sharing_is_of_weights_and_survives_copies_and_steps():
    model = small()
    for clip in (model, copy.deepcopy(model)):
        for image, text in zip(clip.visual.blocks, clip.text.blocks[1:], strict=True):
            assert image.attn.qkv.weight is text.attn.qkv.weight
            assert image.mlp.fc2.bias is text.mlp.fc2.bias
            assert image.norm1.weight is not text.norm1.weight
            assert not image.attn.causal
            assert text.attn.causal
    half = small(share=("mlp",))
    assert half.visual.blocks[0].attn.qkv.weight is not half.text.blocks[1].attn.qkv.weight
    before = model.visual.blocks[0].mlp.fc1.weight.clone()
    clip_loss(model.encode_image(torch.randn(2, 3, 32, 32), True), model.encode_text(TEXT, True), model.logit_scale)[
        "loss"
    ].backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(before, model.text.blocks[1].mlp.fc1.weight)
    with pytest.raises(ValueError, match="did you mean"):
        MSCLIP(share=("norm",), **SMALL)


def test_branch_changes_the_feature_and_travels_in_the_grid():
    model, images = small(), torch.randn(2, 3, 32, 32)
    tokens, grid = model.visual.embed(images)
    assert [tuple(f.shape) for f in grid.maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4)]
    zeroed = replace(grid, maps=tuple(torch.zeros_like(f) for f in grid.maps))
    out = model.visual.forward_blocks(tokens, grid)
    assert not torch.allclose(out, model.visual.forward_blocks(tokens, zeroed), atol=1e-3)
    assert torch.allclose(out[:, :1], model.visual.forward_blocks(tokens, grid, read="prefix"), atol=1e-5)
    model.visual.recompute = True
    assert torch.allclose(out, model.visual.forward_blocks(tokens.requires_grad_(), grid), atol=1e-6)


def test_plain_msclip_and_bad_options():
    model = small(early_conv=False, lateral_layers=())
    assert model.visual.blocks[0].attn.qkv.weight is model.text.blocks[0].attn.qkv.weight
    assert model(torch.randn(2, 3, 32, 32), TEXT).shape == (2, 2)
    with pytest.raises(ValueError, match="lateral_layers"):
        small(lateral_layers=(0, 1, 2))
    with pytest.raises(ValueError, match="did you mean 'patch_size'"):
        small(patchsize=8)
    with pytest.raises(ValueError, match="another length"):
        small(branch_blocks=(0, 1))


@pytest.mark.parametrize("make", [lambda: small().visual, lambda: swin(), lambda: swin(stem="conv", merge="conv")])
def test_towers_transfer(make):
    encoder = make()
    model = TransferModel(encoder, head=dict(type="classification", num_classes=3)).train()
    before = copy.deepcopy(encoder.state_dict())
    out = model(mode="loss", image=torch.randn(4, 3, 32, 32), label=torch.tensor([0, 1, 2, 0]))
    out["loss"].backward()
    assert model.head.fc.weight.grad.abs().sum() > 0
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())  # BatchNorm statistics too
    clips = torch.randn(2, 1, 3, 3, 32, 32)
    assert model.eval()(mode="tensor", clips=clips).shape == (2, 3)


def swin(**options):
    torch.manual_seed(0)
    small = dict(image_size=32, patch_size=4, dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, out_dim=12)
    return SwinEncoder(**small, **options)


def test_swin_refuses_what_its_windows_cannot_do():
    with pytest.raises(ValueError, match="take image_size 224"):
        SwinEncoder(image_size=200)
    with pytest.raises(ValueError, match="reads 32 x 32"):
        swin().embed(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="no taps"):
        swin().forward_blocks(*swin().embed(torch.zeros(1, 3, 32, 32)), taps=object())


@pytest.mark.parametrize(("stem", "sign"), [("unicl_dev", "unicl"), ("msclip_dev", "msclip")])
def test_released_checkpoints_go_in_and_out(stem, sign):
    case = Case.load(CASES / f"{stem}.json")
    state = case.state()
    state |= {text: state[image] for text, image in case.json.get("tied", {}).items()}
    converter = find_converter(state)
    assert converter.name == sign
    ours = converter.to_ours(state)
    assert all(key.startswith("clip.") for key in ours)
    back = converter.to_official(ours)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], v) for k, v in state.items())
    with pytest.raises(ValueError, match=r"no weights of|no rule renames"):
        converter.to_official({"head.fc.weight": torch.zeros(1)})
    others = [c for c in (contrastive.UNICL, contrastive.MSCLIP_RELEASED) if c is not converter]
    with pytest.raises(ValueError, match=r"no weights of|no rule renames"):
        others[0].to_official(ours)


def test_old_unicl_checkpoints_keep_their_text_weights():
    wanted = "clip.text.blocks.3.attn.proj.weight"
    for prefix in ("text_encoder", "lang_encoder", "text"):
        assert contrastive.UNICL.ours(f"{prefix}.resblocks.3.attn.out_proj.weight") == wanted
    key = contrastive.UNICL.ours("image_encoder.layers.0.downsample.norm.bias")
    assert key == "clip.visual.stages.1.downsample.norm.bias"
    assert contrastive.UNICL.plain({"image_encoder.layers.0.blocks.1.attn.relative_position_index": 0}) == {}
    with pytest.raises(ValueError, match="no rule renames"):
        contrastive.UNICL.ours("backbone.conv.weight")


@pytest.mark.parametrize("doubled", [True, False])
def test_a_fusion_norms_the_sum_of_both_convolutions_and_doubles_the_class_token(doubled):
    torch.manual_seed(0)
    adapter = LateralAdapter(6, 12, 2, 2, 0, doubled, 1e-5).double().eval()
    for module in adapter.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.normal_()
    tokens, features = torch.randn(2, 5, 12).double(), torch.randn(2, 6, 4, 4).double()
    down, norm = adapter.down
    stage = norm(torch.nn.functional.conv2d(features, down.weight, stride=2, groups=6))
    stage = torch.einsum("bchw,dc->bdhw", stage, adapter.widen.weight[:, :, 0, 0])
    conv, norm = adapter.local
    patches = tokens[:, 1:].transpose(1, 2).reshape(2, 12, 2, 2)
    patches = norm(torch.nn.functional.conv2d(patches, conv.weight, padding=1, groups=12))
    fused = (patches + stage).flatten(2).transpose(1, 2)
    want = plain.norm(torch.cat([(1 + doubled) * tokens[:, :1], fused], 1), adapter.norm)
    torch.testing.assert_close(adapter(tokens, features, Grid(1, 2, 2, 1)), want)


def test_each_stage_is_fused_before_its_layer_and_prompts_are_left_alone(monkeypatch):
    model, log = small().visual, []
    assert model.first_layer == 1
    tokens, grid = model.embed(torch.randn(2, 3, 32, 32))
    monkeypatch.setattr(
        "xmodal.encoders.vit.run_block", lambda block, x, *rest: log.append(block) or x[:, : rest[1] or x.shape[1]]
    )
    fuse = model.fuse
    model.fuse = lambda stage, tokens, grid: log.append(stage) or fuse(stage, tokens, grid)
    model.forward_blocks(tokens, grid)
    blocks = list(model.blocks)
    assert log == [0, blocks[0], 1, blocks[1], 2, blocks[2]]  # layers 1, 2 and 3; the stem is layer 0
    prompts = torch.randn(2, 3, 32)
    got = fuse(1, torch.cat([tokens, prompts], 1), grid)
    torch.testing.assert_close(got[:, : tokens.shape[1]], fuse(1, tokens, grid))
    assert torch.equal(got[:, tokens.shape[1] :], prompts)


def test_strides_of_the_papers_patches_and_where_sharing_begins():
    assert default_strides(32, 5) == [16, 8, 4, 2, 1]
    assert default_strides(16, 5) == [8, 4, 2, 1, 1]
    late = small(first_shared=2)
    shared = [a.attn.qkv.weight is late.text.blocks[i + 1].attn.qkv.weight for i, a in enumerate(late.visual.blocks)]
    assert shared == [False, True, True]
    assert small().logit_scale.item() == 1.0
