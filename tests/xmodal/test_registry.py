"""Every vision transformer of the installed timm equals its rebuilt tower, or is refused with a reason."""

import re

import pytest
import timm

from tools.benches.encoders import TARGET, architectures, outcome
from tools.encoders import main

NAMES = architectures()
FEW = {
    "vit_base_patch16_224", "vit_small_patch16_dinov3", "vit_pe_core_tiny_patch16_384", "vit_so400m_patch14_siglip_384",
    "naflexvit_base_patch16_gap", "vit_base_patch16_xp_224", "vit_base_patch16_sapiens2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "name"), [pytest.param(f, n, marks=[] if n in FEW else pytest.mark.slow, id=n) for f, n in NAMES]
)
def test_it_equals_timm_or_is_refused_with_a_reason(family, name):
    found = outcome(family, name)
    assert found.fits, found
    assert not found.refused or len(found.refused) > 20


def test_the_page_names_every_architecture_of_the_timm_that_it_was_made_with():
    text = TARGET.read_text()
    version = re.search(r"vision transformers of timm (\S+),", text)
    assert version
    if version[1] != timm.__version__:
        pytest.skip(f"docs/encoders.md was made with timm {version[1]}")
    words = set(re.findall(r"[\w.]+", text))
    assert not [name for _, name in NAMES if name not in words]


def test_the_tool_says_how_many(capsys):
    assert main(["vit_small_patch16_rope_224", "vit_base_patch16_xp_224"]) == 0
    assert "1 rebuilt, 1 refused" in capsys.readouterr().out
