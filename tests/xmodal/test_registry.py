"""Every architecture of the installed timm and open_clip equals its tower here, or is refused with a reason."""

import re

import pytest
import timm

from tools.benches.encoders import TARGET, architectures, outcome
from tools.benches.open_clip_encoders import configs, pair
from tools.benches.stage_encoders import stage_architectures, stage_outcome
from tools.encoders import main

NAMES, STAGES = architectures(), stage_architectures()
FEW = {
    "vit_base_patch16_224", "vit_small_patch16_dinov3", "vit_pe_core_tiny_patch16_384", "vit_so400m_patch14_siglip_384",
    "naflexvit_base_patch16_siglip", "naflexvit_base_patch16_parfac_gap", "vit_base_patch16_xp_224",
    "vit_base_patch16_sapiens2", "beit_base_patch16_224", "vit_tiny_r_s16_p8_224", "vitamin_small_224",
}  # fmt: skip
FEW_STAGES = {"regnetx_002", "mobilenetv4_conv_small", "resnet18", "convnext_atto", "densenet121"}
FEW_CONFIGS = {
    "ViT-L-14-CLIPA", "coca_ViT-B-32", "roberta-ViT-B-32", "RN50", "ViT-L-14-worldwide", "MobileCLIP2-S0", "ViT-B-32",
    "ViT-B-16-SigLIP2",
}  # fmt: skip


def some(names, few):
    """Arguments of a test, of which only a few are fast."""
    return [pytest.param(*n, marks=[] if n[-1] in few else pytest.mark.slow, id=n[-1]) for n in names]


@pytest.mark.parametrize(("family", "name"), some(NAMES, FEW))
def test_it_equals_timm_or_is_refused_with_a_reason(family, name):
    found = outcome(family, name)
    assert found.fits, found
    assert not found.refused or len(found.refused) > 20


@pytest.mark.parametrize(("family", "name"), some(STAGES, FEW_STAGES))
def test_a_model_of_stages_equals_timm_or_is_refused_with_a_reason(family, name):
    found = stage_outcome(family, name)
    assert found.fits, found
    assert not found.refused or len(found.refused) > 20


@pytest.mark.parametrize("name", some([(n,) for n in configs()], FEW_CONFIGS))
def test_both_towers_equal_open_clip_or_are_refused_with_a_reason(name):
    found = pair(name)
    assert found.fits, found
    assert all(not said or len(said) > 20 for said in (found.image_refused, found.text_refused))


def test_what_people_hold_of_open_clip_is_taken():
    found = {name: pair(name) for name in ("ViT-L-14-CLIPA", "coca_ViT-B-32", "RN50", "MobileCLIP-B")}
    assert not [p for p in found.values() if p.image_refused or p.text_refused]
    assert all(p.fits for p in found.values()), found


def test_the_page_names_every_architecture_of_the_timm_that_it_was_made_with():
    text = TARGET.read_text()
    version = re.search(r"vision transformers of timm (\S+),", text)
    assert version
    if version[1] != timm.__version__:
        pytest.skip(f"docs/encoders.md was made with timm {version[1]}")
    words = set(re.findall(r"[\w.]+", text))
    assert not [name for _, name in NAMES if name not in words]
    assert not [name for name in configs() if name not in text]


def test_the_tool_says_how_many(capsys):
    assert main(["vit_small_patch16_rope_224", "vit_base_patch16_18x2_224"]) == 0
    assert "1 taken, 1 refused" in capsys.readouterr().out
