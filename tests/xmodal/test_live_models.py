"""Adapters on live models of further families, and the merged models that come back."""

import open_clip
import pytest
import timm
import torch

import xmodal
from tests.xmodal.adapters import towers
from tools.benches.encoders import redraw

NARROW = dict(embed_dim=48, num_heads=3)
TIMM = {
    "beit_base_patch16_224": NARROW,
    "naflexvit_base_patch16_siglip": NARROW,
    "vitamin_small_224": {},
    "vit_tiny_r_s16_p8_224": {},
}
OPEN_CLIP = {
    "clipa": dict(pool_type="avg", final_ln_after_pool=True, no_ln_pre=True),
    "coca": dict(attentional_pool=True, attn_pooler_heads=2),
    "custom": dict(qk_norm=True, scale_attn_inner=True, scale_fc=True),
    "tanh": dict(act_kwargs=dict(approximate="tanh"), norm_kwargs=dict(eps=1e-3)),
}


def check(model, images):
    """Adapt, train nothing, and merge: both outputs are those of the model, and then of the adapted tower."""
    adapted = xmodal.adapt(model, "lora").eval()
    want = model(images)
    torch.testing.assert_close(adapted(images), want, atol=1e-5, rtol=1e-5)
    towers.refill(adapted.encoder, 0.05, only=lambda p: p.requires_grad)
    found = adapted(images)
    assert not torch.allclose(found, want, atol=1e-3)
    merged = adapted.merged()
    assert type(merged) is type(model)
    torch.testing.assert_close(merged(images), found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timm(name):
    torch.manual_seed(0)
    check(redraw(timm.create_model(name, depth=2, num_classes=5, **TIMM[name])), torch.randn(1, 3, 224, 224))


@pytest.mark.parametrize("kind", OPEN_CLIP)
@torch.no_grad()
def test_open_clip(kind):
    torch.manual_seed(0)
    vision = dict(image_size=32, layers=2, width=64, patch_size=8) | OPEN_CLIP[kind]
    text = dict(context_length=8, vocab_size=64, width=64, heads=2, layers=1)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    check(redraw(model.visual), torch.randn(1, 3, 32, 32))
