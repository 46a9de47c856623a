"""The contract of `Encoder`, held by every family, and a tower that was written to it alone."""

import copy

import pytest
import torch

import xmodal
from tests.examples import example
from tests.xmodal.adapters import towers
from tools.benches.encoders import redraw
from xmodal.encoders.convnet import convnet
from xmodal.encoders.efficientnet_lite import efficientnet_lite0
from xmodal.encoders.inflate import inflate
from xmodal.encoders.msclip import MSCLIP
from xmodal.encoders.openclip_weights import open_clip_encoder
from xmodal.encoders.sites import Edits, Stream
from xmodal.encoders.swin import SwinEncoder
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.encoders.unicl import unicl
from xmodal.encoders.vjepa2 import VJEPA2
from xmodal.engine.frozen_cache import FrozenCache
from xmodal.merge import merge_adapters
from xmodal.model import TransferModel
from xmodal.registry import ENCODERS
from xmodal.structures import Encoder, Grid

HEAD = dict(type="classification", num_classes=3)
SWIN = dict(image_size=32, depths=(2, 2), num_heads=(2, 4), window_size=4)
MS = dict(dim=64, num_heads=4, image_size=32, patch_size=8, depth=4, vocab_size=20, context_length=6, out_dim=16)


RowEncoder = example("An encoder")["RowEncoder"]  # written to the documented contract alone
ENCODERS.module_dict.pop("rows", None)
FAMILIES = {
    "rows": RowEncoder,
    "vit": towers.vit,
    "rotary vit": lambda: towers.vit(
        rotary=dict(kind="axial"), positions=False, num_registers=2, gated=True, act="silu"
    ),
    "post-norm vit": lambda: towers.vit(post_norm=True, final_norm=False, norm="rms"),
    "parallel vit": lambda: towers.vit(parallel=True, qk_norm=True),
    "beit": lambda: towers.vit(relative=True, positions=False, pool="avg", fc_norm=True),
    "naflex": lambda: towers.vit(
        class_token=False, pool="map", resize=dict(mode="bilinear", grid=3), embed_prefix=False
    ),
    "coca": lambda: towers.vit(
        pool="queries", pool_prefix=True, pool_queries=4, pool_heads=2, fc_norm=True, out_dim=12
    ),
    "clipa": lambda: towers.vit(pool="avg", fc_norm=True, out_dim=10, patch_bias=False, norm_eps=1e-5),
    "vitamin": lambda: timm_encoder("vitamin_small_224", "random", arch=dict(depth=1)),
    "vjepa2": lambda: VJEPA2(32, 8, 24, 2, 3),
    "vjepa2.1": lambda: VJEPA2(32, 16, 24, 12, 3, version="2.1"),
    "tiny": lambda: tiny_clip_encoder("random"),
    "resnet": lambda: convnet("resnet18"),
    "convnext": towers.convnext,
    "efficientnet": lambda: efficientnet_lite0("random", image_size=32),
    "swin": lambda: SwinEncoder(dim=16, out_dim=12, **SWIN),
    "timm swin": towers.swin,
    "swin v2": towers.swin_v2,
    "regnet": lambda: convnet("regnetx_002"),
    "mobilenetv4": lambda: convnet("mobilenetv4_conv_small"),
    "open_clip convnext": lambda: open_clip_encoder("convnext_tiny", "random", image_size=32),
    "unicl": lambda: unicl(swin_dim=16, text_width=16, text_depth=1, text_heads=2, vocab_size=20, **SWIN).visual,
    "msclip": lambda: MSCLIP(lateral_layers=(1, 2), branch_blocks=(0, 1), **MS).visual,
    "clip resnet": lambda: convnet("clip/RN50"),
    "inflated vit": lambda: inflate(towers.vit(), num_frames=2),
    "inflated swin": lambda: inflate(SwinEncoder(dim=16, out_dim=12, **SWIN), num_frames=2),
}


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


def images_of(encoder, count=2):
    size = encoder.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_its_facts_and_its_verbs_agree(encoder):
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder.name, str)
    assert len(encoder.pixel_mean) == len(encoder.pixel_std) == 3
    assert len(list(encoder.blocks)) == encoder.depth
    images = images_of(encoder)
    tokens, grid = encoder.embed(images)
    assert isinstance(grid, Grid)
    assert grid.prefix == encoder.num_prefix
    assert torch.equal(encoder.forward_blocks(tokens, grid, stop=0), tokens)
    stream = encoder.forward_blocks(tokens, grid)
    feature = encoder.pool(encoder.norm(stream, grid), grid)
    assert feature.shape == (2, encoder.out_dim)
    torch.testing.assert_close(encoder(images), feature, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.pool(encoder.forward_tokens(tokens, grid), grid), feature)
    assert encoder.dim in (stream.shape[-1], stream.shape[1])  # tokens, or maps with the channels in front
    parts = list(encoder.modules())
    assert all(any(module is part for part in parts) for module in encoder.behind_blocks())


@torch.no_grad()
def test_what_it_cannot_do_is_a_value_error(encoder):
    if encoder.root is not None:
        assert any(isinstance(m, Edits | Stream) for m in encoder.root.modules())
    for ask in (encoder.library_state, encoder.map_dims, lambda: encoder.feature_maps(images_of(encoder))):
        said = ""
        try:
            assert len(ask())
        except ValueError as error:
            said = str(error)
        assert not said or type(encoder).__name__ in said


def test_it_trains_in_a_transfer_model(encoder):
    model = TransferModel(copy.deepcopy(encoder), HEAD).train()
    assert model.boundary() == encoder.depth
    batch = {"image": images_of(encoder, 4), "label": torch.tensor([0, 1, 2, 0])}
    model(mode="loss", **batch)["loss"].backward()
    assert {k for k, p in model.named_parameters() if p.grad is not None} == {"head.fc.weight", "head.fc.bias"}
    assert model.saved_keys() == {"head.fc.weight", "head.fc.bias"}
    kept, grid = model.frozen_part(image=batch["image"])
    torch.testing.assert_close(model.trained_part(kept, grid), model.features(image=batch["image"]))


class Pictures(torch.utils.data.Dataset):
    classes = ("a", "b", "c")

    def __len__(self):
        return 3

    def __getitem__(self, key):
        image = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(key[1]))
        return {"image": image.byte(), "label": key[1], "sample_id": str(key[1])}


def test_a_tower_of_one_file_takes_adapters_cache_and_merging(tmp_path):
    torch.manual_seed(0)
    encoder = RowEncoder().eval()
    images = images_of(encoder)
    adapted = xmodal.adapt(encoder, "lora", num_classes=2)
    torch.testing.assert_close(adapted.add("vpt", num_tokens=2).use("lora").encoder.eval()(images), encoder(images))
    towers.refill(adapted.encoder, 0.1, only=lambda p: p.requires_grad)
    adapted.save(tmp_path / "lora")
    torch.testing.assert_close(adapted.merged()(images), adapted.encoder(images), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="residual stream"):
        merge_adapters(adapted.use("vpt").encoder)
    model = TransferModel(RowEncoder(), HEAD, adapters=[dict(type="lora", blocks=1)]).eval()
    cache = FrozenCache(model, Pictures(), tmp_path, dtype="float32", shard=2)
    cache.fill()
    item = cache.read()[0, 1]
    want = model(image=model.data_preprocessor({"image": Pictures()[0, 1]["image"][None]})["image"])
    kept = {key: value[None] for key, value in item.items() if key.startswith("cached/")}
    torch.testing.assert_close(model(**kept, grid=item["grid"]), want, atol=1e-4, rtol=1e-4)


def test_a_tower_without_a_verb_is_refused():
    class Half(RowEncoder):
        pool = Encoder.pool

    with pytest.raises(TypeError, match="abstract"):
        Half()


TWO = {  # methods of two adapters that live on one tower of a family
    "vit": (("lora", {}), ("vpt", dict(num_tokens=2))),
    "maps": (("conv_adapter", dict(norms="none")), ("conv_adapter", dict(norms="none", scheme="residual_parallel"))),
}
MAPS = ("swin v2", "regnet", "mobilenetv4", "open_clip convnext")


@pytest.mark.parametrize("family", ["beit", "naflex", "coca", "clipa", "vitamin", *MAPS])
@torch.no_grad()
def test_two_adapters_on_one_tower_leave_it_as_it_was(family):
    torch.manual_seed(0)
    encoder = redraw(FAMILIES[family]())  # RegNet's blocks begin as identities
    images = images_of(encoder)
    want = encoder(images)
    first, second = TWO["maps" if family in MAPS else "vit"]
    adapted = xmodal.adapt(encoder, first[0], name="first", **first[1])
    found = {}
    for name in ("first", "second"):
        if name == "second":
            adapted.add(second[0], name, **second[1])
        towers.refill(adapted.use(name).encoder, 0.3, only=lambda p: p.requires_grad)
        found[name] = adapted.eval()(images)
        assert not torch.allclose(found[name], want, atol=1e-4)
    assert torch.equal(adapted.use("first").eval()(images), found["first"])
    assert torch.equal(adapted.use(None).eval()(images), want)
    assert torch.equal(adapted.use("second").eval()(images), found["second"])
