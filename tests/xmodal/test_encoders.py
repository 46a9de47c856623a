"""Every family of image towers against its live library on random weights, at its own resolution and at another."""

from functools import partial

import open_clip
import pytest
import timm
import torch
from open_clip.model import CustomTextCLIP
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer, checkpoint_filter_fn

from tests.xmodal.test_text import stirred
from xmodal.encoders.files import load_exactly, unfilled
from xmodal.encoders.openclip_configs import config_of
from xmodal.encoders.openclip_weights import build, clip_state, open_clip_clip, open_clip_encoder
from xmodal.encoders.timm_parts import SUPPORTED, describe
from xmodal.encoders.timm_weights import create, from_timm, timm_encoder
from xmodal.encoders.tokenizer import ClipTokenizer

SMALL = dict(embed_dim=48, depth=2, num_heads=3)
HALF, INCEPTION = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
FAMILIES = {
    "vit_base_patch16_224.augreg_in21k": HALF,
    "vit_base_patch32_384": HALF,
    "deit_small_patch16_224": INCEPTION,
    "deit3_small_patch16_224": INCEPTION,
    "vit_base_patch16_224.mae": INCEPTION,
    "vit_small_patch16_224.dino": INCEPTION,
    "vit_small_patch14_dinov2": INCEPTION,
    "vit_small_patch14_reg4_dinov2": INCEPTION,
    "vit_giant_patch14_reg4_dinov2": INCEPTION,
    "vit_base_patch16_clip_224": CLIP_MEAN,
    "vit_base_patch16_clip_quickgelu_224": CLIP_MEAN,
    "vit_base_patch16_siglip_224": HALF,
    "vit_so400m_patch14_siglip_378": HALF,
    "vit_so400m_patch16_siglip_256.v2_webli": HALF,
    "vit_base_patch16_siglip_gap_224": HALF,
    "vit_medium_patch16_gap_256": HALF,
    "vit_medium_patch16_reg4_gap_256": HALF,
    "vit_so150m_patch16_reg4_map_256": HALF,
    "vit_base_patch16_xp_224": HALF,
}
OPEN_CLIP_SMALL = dict(
    embed_dim=32,
    vision_cfg=dict(width=64, layers=2, head_width=32),
    text_cfg=dict(width=64, layers=2, heads=2),
)
OPEN_CLIP = ["ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14-336", "ViT-H-14", "ViT-H-14-quickgelu"]


def library_model(name, **changes):
    return stirred(timm.create_model(name, num_classes=0, **SMALL, **changes))


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_family_equals_timm(name):
    theirs = library_model(name)
    ours = from_timm(theirs)
    images = torch.randn(2, 3, ours.image_size, ours.image_size)
    with torch.no_grad():
        want, got = theirs(images), ours(images)
        stream = ours.norm(ours.forward_blocks(*ours.embed(images)))
        theirs_stream = theirs.forward_features(images)
    assert want.shape == got.shape == (2, ours.out_dim)
    assert want.std() > 1e-2
    assert (want - got).abs().max() < 1e-5
    assert (stream - theirs_stream).abs().max() < 1e-5
    assert ours.pixel_mean == FAMILIES[name]
    assert ours.num_prefix == theirs.num_prefix_tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_family_equals_timm_at_another_resolution(name):
    theirs = library_model(name)
    size = 5 * theirs.patch_embed.patch_size[0]
    other = timm.create_model(name, num_classes=0, img_size=size, **SMALL).eval()
    other.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), other))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        want = other(images)
        assert (from_timm(theirs, image_size=size)(images) - want).abs().max() < 1e-5
        assert (from_timm(theirs)(images) - want).abs().max() < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_reg4_dinov2",
        "vit_giant_patch14_reg4_dinov2",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_xp_224",
        "vit_pwee_patch16_reg1_gap_256",
    ],
)
def test_export_to_timm_and_back(name):
    theirs = library_model(name)
    back = from_timm(theirs).library_state()
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("options", [dict(), dict(fuse_out_proj=True), dict(fuse_out_proj=True, qkv_bias=False)])
def test_parallel_blocks_with_every_fusion_equal_timm(options):
    blocks = partial(ParallelScalingBlock, **{k: v for k, v in options.items() if k == "fuse_out_proj"})
    more = {k: v for k, v in options.items() if k == "qkv_bias"}
    theirs = stirred(VisionTransformer(64, 16, num_classes=0, init_values=0.5, block_fn=blocks, **more, **SMALL))
    ours, images = from_timm(theirs).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert (ours(images) - theirs(images)).abs().max() < 1e-5
    back = ours.library_state()
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())
    with torch.no_grad():
        ours.blocks[0].mlp.fc2.bias += 1
        theirs.load_state_dict(ours.library_state())
        assert (ours(images) - theirs(images)).abs().max() < 1e-5
        ours.blocks[1].norm2.weight[0] += 1
    with pytest.raises(ValueError, match=r"blocks\.1\.norm1 and norm2 differ"):
        ours.library_state()


def outcome(name):
    """`read`, or why not."""
    try:
        describe(unfilled(lambda: create(name, None, dict(depth=2))), name)
    except ValueError as error:
        return str(error)
    return "read"


def test_every_plain_vision_transformer_of_timm_is_read_or_refused():
    names = timm.list_models(["vit_*", "deit_*", "deit3_*"], exclude_filters="*_sapiens2")
    found = {name: outcome(name) for name in names}
    read = {name for name, said in found.items() if said == "read"}
    assert len(read) > 90
    assert {"vit_base_patch16_224", "vit_giant_patch14_dinov2", "vit_large_patch16_siglip_384"} <= read
    assert {"vit_base_patch16_dinov3", "deit_base_distilled_patch16_224"} <= read
    assert {"vit_base_r50_s16_224", "vit_base_mci_224"} <= read
    assert {"vit_base_patch16_18x2_224", "vit_relpos_base_patch16_224"} <= found.keys() - read
    assert all(name in said and "is not supported: " in said for name, said in found.items() if said != "read")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_bas_patch16_224", "did you mean 'vit_base_patch16_224'"),
        ("resnet50", "no plain vision transformer"),
        ("vit_base_patch16_224.nothing", "augreg_in21k"),
        ("vit_base_patch16_sapiens2", "not square; .*LayerScale is on its attention only"),
        ("vit_small_patch16_18x2_224", "its block is ParallelThingsBlock"),
        ("vit_relpos_small_patch16_224", "timm's family vision_transformer_relpos"),
    ],
)
def test_unsupported_timm_models_are_refused_by_name(name, said):
    if not timm.is_model(name) and name.endswith("sapiens2"):
        pytest.skip("this timm is older than that model")
    with pytest.raises(ValueError, match=said) as error:
        timm_encoder(name, weights="random")
    assert said.startswith(("did", "aug")) or SUPPORTED in str(error.value)


def test_options_of_timm_encoder():
    tower = timm_encoder("vit_small_patch16_224.dino", "random", image_size=64, drop_path=0.2, arch=SMALL)
    assert (tower.image_size, tower.pos_embed.shape[1]) == (64, 17)
    assert tower.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)
    assert tower.name == "vit_small_patch16_224.dino/random-0"
    with pytest.raises(ValueError, match="depht"):
        timm_encoder("vit_small_patch16_224", "random", arch=dict(depht=2))
    with pytest.raises(ValueError, match="65"):
        timm_encoder("vit_small_patch16_224", "random", image_size=65, arch=SMALL)


def from_open_clip(model, name, image_size=None, arch=None):
    """Convert a live open_clip model that was built with `name` and these changes of its config."""
    config = config_of(name, arch)
    config.setdefault("quick_gelu", False)
    clip = build(config, name, name, image_size)
    return load_exactly(clip, clip_state(model.state_dict(), clip.visual), name)


def live_open_clip(name, image_size=None):
    config = config_of(name, OPEN_CLIP_SMALL)
    if image_size:
        config["vision_cfg"]["image_size"] = image_size
    quick = config.get("quick_gelu", False)
    return open_clip.model.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=quick)


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_family_equals_open_clip(name):
    theirs = stirred(live_open_clip(name), std=0.03)
    ours = from_open_clip(theirs, name, arch=OPEN_CLIP_SMALL)
    ids = ClipTokenizer()(["a photo of a cat", "many more words than the other one has"])
    images = torch.randn(2, 3, ours.visual.image_size, ours.visual.image_size)
    with torch.no_grad():
        image, text = theirs.encode_image(images), theirs.encode_text(ids)
        assert min(image.std(), text.std()) > 0.05
        assert (ours.encode_image(images) - image).abs().max() < 1e-5
        assert (ours.encode_text(ids) - text).abs().max() < 1e-5
    back = ours.library_state()
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14-336"])
def test_open_clip_family_equals_open_clip_at_another_resolution(name):
    theirs = stirred(live_open_clip(name), std=0.03)
    size = 5 * theirs.visual.patch_size[0]
    other, state = live_open_clip(name, size).eval(), dict(theirs.state_dict())
    open_clip.model.resize_pos_embed(state, other)
    other.load_state_dict(state)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        want = other.encode_image(images)
        assert (from_open_clip(theirs, name, size, OPEN_CLIP_SMALL).encode_image(images) - want).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "pretrained", "said"),
    [
        ("ViT-B-16", "openai", "take 'ViT-B-16-quickgelu'"),
        ("ViT-H-14", "dfn5b", "take 'ViT-H-14-quickgelu'"),
        ("ViT-B-23", "openai", "did you mean"),
        ("ViT-B-16", None, "say which weights"),
        ("ViT-B-32", "laion2b_s34b_b88k", "models with that tag: ViT-B-16"),
        ("ViT-L-14", "opnai", "did you mean 'openai'"),
        ("RN50", "openai", "take 'RN50-quickgelu'"),
        ("MobileCLIP2-S0", "random", "class head"),
        ("vit_relpos_medium_patch16_cls_224", "random", "none of the blocks"),
    ],
)
def test_wrong_open_clip_requests_are_refused_by_name(name, pretrained, said):
    with pytest.raises(ValueError, match=said) as error:
        open_clip_encoder(name, pretrained)
    assert name in str(error.value)


def test_a_text_tower_of_hugging_face_is_refused_and_its_image_tower_read():
    with pytest.raises(ValueError, match=r"roberta-base .*open_clip_encoder"):
        open_clip_clip("roberta-ViT-B-32", "random")
    assert (
        open_clip_encoder("roberta-ViT-B-32", "random", arch=dict(vision_cfg=OPEN_CLIP_SMALL["vision_cfg"])).depth == 2
    )


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        (dict(vision_cfg=dict(scale_heads=True)), "scale_heads"),
        (dict(vision_cfg=dict(pool_type="none")), "no feature"),
        (dict(vision_cfg=dict(timm_drop=0.1)), "no dropout"),
        (dict(vision_cfg=dict(patchsize=8)), "vision_cfg.patchsize = 8 is not known"),
        (dict(text_cfg=dict(pool_type="none")), "pool_type = 'none'"),
        (dict(text_cfg=dict(ls_init_value=0.1)), "init_values"),
        (dict(embed=8), "embed = 8 is not known"),
    ],
)
def test_options_of_open_clip_that_are_not_supported_are_refused_by_name(arch, said):
    with pytest.raises(ValueError, match=said):
        open_clip_clip("ViT-B-32", "random", arch=arch)


def test_an_activation_that_was_stated_wrong_is_refused():
    with pytest.raises(ValueError, match="trained with GELU"):
        open_clip_encoder("ViT-B-16", "laion2b_s34b_b88k", quick_gelu=True)


def test_random_towers_follow_their_seed_and_leave_the_generator_alone():
    def weights(seed):
        clip = open_clip_clip("ViT-B-32", "random", seed=seed, arch=OPEN_CLIP_SMALL)
        return clip.visual.blocks[0].attn.qkv.weight

    before = torch.get_rng_state()
    first, again, other = weights(3), weights(3), weights(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-16-quickgelu", "ViT-B-32"])
def test_full_size_open_clip(name):
    theirs = open_clip.create_model(name).eval()
    ours = from_open_clip(theirs, name)
    images, ids = torch.randn(2, 3, 224, 224), ClipTokenizer()(["a photo of a cat", "a dog"])
    with torch.no_grad():
        assert (ours.encode_image(images) - theirs.encode_image(images)).abs().max() < 1e-5
        assert (ours.encode_text(ids) - theirs.encode_text(ids)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-B-32-SigLIP2-256"])
def test_full_size_siglip(name):
    config = open_clip.get_model_config(name)
    config["text_cfg"] = {**config["text_cfg"], "vocab_size": 500}
    keys = ("embed_dim", "vision_cfg", "text_cfg", "init_logit_bias")
    theirs = stirred(CustomTextCLIP(**{key: config[key] for key in keys}), std=0.003)
    ours = from_open_clip(theirs, name, arch=dict(text_cfg=dict(vocab_size=500)))
    size = ours.visual.image_size
    images, ids = torch.randn(2, 3, size, size), torch.randint(0, 500, (2, 64))
    with torch.no_grad():
        assert (ours.encode_image(images) - theirs.encode_image(images)).abs().max() < 1e-5
        assert (ours.encode_text(ids) - theirs.encode_text(ids)).abs().max() < 1e-5
    back = ours.library_state()
    assert back.keys() == theirs.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_base_patch16_224.augreg_in21k", "vit_base_patch14_reg4_dinov2"])
def test_full_size_timm(name):
    theirs = timm.create_model(name, num_classes=0).eval()
    ours = from_timm(theirs)
    images = torch.randn(1, 3, ours.image_size, ours.image_size)
    with torch.no_grad():
        assert (ours(images) - theirs(images)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["PE-Core-T-16-384", pytest.param("EVA02-B-16", marks=pytest.mark.slow)])
@torch.no_grad()
def test_open_clip_models_with_the_class_head_of_timm_as_projection(name):
    theirs = stirred(open_clip.create_model(name, load_weights=False), std=0.03)
    ours = from_open_clip(theirs, name)
    images = torch.randn(1, 3, ours.visual.image_size, ours.visual.image_size)
    want = theirs.encode_image(images)
    assert want.shape[-1] == ours.visual.out_dim == theirs.visual.trunk.head.out_features
    assert theirs.visual.trunk.head.bias.abs().sum() > 0
    assert (ours.visual(images) - want).abs().max() < 1e-5
    ids = ClipTokenizer(theirs.context_length)(["a photo of a cat", "dog"])
    assert (ours.encode_text(ids) - theirs.encode_text(ids)).abs().max() < 1e-5
    theirs.load_state_dict(ours.library_state())
