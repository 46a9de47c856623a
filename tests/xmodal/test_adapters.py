"""What every registered adapter promises, on every family of encoders it claims."""

import copy
import inspect
import pickle

import pytest
import timm
import torch
from torch import nn

from tests.xmodal.adapters.towers import TOWERS, build, refill
from xmodal.adapters.conv_adapter import ExtraNorm
from xmodal.encoders.convnet import ConvNet
from xmodal.encoders.frozen import count
from xmodal.encoders.sites import Edits, Stream, placed
from xmodal.merge import largest_error, merge_adapters
from xmodal.model import TransferModel
from xmodal.registry import ADAPTERS, METHODS, load_catalog

load_catalog()
D, L = 24, 3

# name: arguments, identity at the start, weights on the `token` tower (D=24, L=3, 5 tokens), merges
ROWS = {
    "lora": (dict(rank=4, alpha=6.0), True, 4 * L * 4 * D, True),
    "lora-all": (
        dict(rank=2, targets=["q", "k", "v", "proj", "fc1", "fc2"], dropout=0.2),
        True,
        L * 2 * D * (8 + 10),
        True,
    ),
    "lora-fused": (dict(rank=4, targets="qkv", alpha=8, blocks=2), True, 2 * 4 * 4 * D, True),
    "lora-biased": (
        dict(rank=4, targets=["q", "v", "fc2"], alpha=8, sqrt_scale=True, bias=True),
        True,
        L * (2 * (8 * D + 4 + D) + 4 * 5 * D + 4 + D),
        True,
    ),
    "peft": (
        dict(config=dict(r=4, lora_alpha=6, target_modules=["qkv", "fc2"], use_dora=True)),
        True,
        L * (4 * 4 * D + 3 * D + 4 * 5 * D + D),
        True,
    ),
    "bitfit": ({}, True, (11 * L + 2) * D, None),
    "bitfit-last": (dict(blocks=1), True, 11 * D, None),
    "convpass": (dict(hidden=4, scale=0.5, dropout=0.3), True, 2 * L * (9 * D + 9 * 16 + 8), False),
    "convpass-attn": (
        dict(hidden=4, sites=["attn"], xavier_init=True, blocks=[0, 2]),
        True,
        2 * (9 * D + 9 * 16 + 8),
        False,
    ),
    "ssf": ({}, False, 2 * 11 * D * L + 4 * D, True),
    "ssf-last": (dict(blocks=1), False, 2 * 11 * D, True),
    "vpt": (dict(num_tokens=5, dropout=0.3), False, L * 5 * D, False),
    "vpt-shallow": (dict(num_tokens=5, deep=False), False, 5 * D, False),
    "vpt-projected": (dict(num_tokens=5, projection=7), False, L * 5 * 7 + 7 * D + D, False),
    "fact": (dict(rank=4, scale=2.0, dropout=0.3), True, 2 * D * 4 + 12 * L * 16, True),
    "fact-tk": (dict(rank=4, form="tk", scale=0.5, blocks=2), True, 2 * D * 4 + 12 * 2 * 4 + 64, True),
    "kadaptation": (dict(terms=4, scale=2.0), True, L * 5 * D + 4 * 16, True),
    "kadaptation-mlp": (
        dict(terms=4, rank=2, targets=["k", "proj", "fc1"], scale=0.5, dropout=0.3, blocks=[0, 2]),
        True,
        # 3 targets' slow factors; factors of D to D twice and D to 4D once; three biases
        3 * 2 * 32 + 2 * (2 * (2 * D * 2) + 2 * D + 2 * 4 * D + D + D + 4 * D),
        True,
    ),
    "houlsby": (dict(hidden=4, act="relu", dropout=0.2, blocks=2), True, 2 * 2 * (2 * D * 4 + 4 + D), False),
    "pfeiffer": (dict(hidden=4, act="silu", dropout=0.2, blocks=[2, 0]), True, 2 * (2 * D * 4 + 4 + D), False),
    "adaptformer": (dict(hidden=4, scale=1.5), True, L * (2 * D * 4 + 4 + D), False),
    "adaptformer-last": (
        dict(hidden=4, scale=0.7, act="gelu", dropout=0.0, blocks=1),
        True,
        2 * D * 4 + 4 + D,
        False,
    ),
    "adaptformer-output": (dict(hidden=4, scale="learned", reads="output", norm="in"), True, None, False),
    "adapter_plus": (dict(hidden=4, drop_path=0.2, dropout=0.2), False, L * (2 * D * 4 + 4 + 2 * D), False),
    "adapter_plus-houlsby": (
        dict(hidden=4, position="houlsby", scale=0.7, act="relu", norm=True, init="lora", train_norms=True, blocks=2),
        True,
        2 * 2 * (2 * D * 4 + 4 + D + 2 * D) + 2 * 4 * D + 2 * D,
        False,
    ),
    "adapter_plus-bare": (dict(hidden=4, position="parallel", bias=False, init="bert"), False, L * 9 * D, False),
    "mona": (dict(hidden=4, dropout=0.2), False, 2 * L * ((2 * 4 + 5) * D + 4 * (4 + 88)), False),
    "mona-last": (dict(hidden=6, blocks=1), False, 2 * ((2 * 6 + 5) * D + 6 * (6 + 88)), False),
    "noah": (
        dict(prompt=[2, 3, 0], lora=[2, 0, 0], adapter=[0, 4, 4], dropout=0.3),
        False,
        5 * D + 8 * D + 2 * (9 * D + 4),
        False,
    ),
    "conv_adapter": (dict(reduction=4), False, None, False),
    "conv_adapter-behind": (
        dict(reduction=4, scheme="residual_sequential", norms="none", kernel_size=5, biases=True, blocks=2),
        False,
        None,
        False,
    ),
    "st_adapter": (
        dict(bottleneck=4, kernel_size=(3, 3, 3), sites=["pre_attn", "pre_mlp"], blocks=2),
        True,
        2 * 2 * (2 * D * 4 + D + 8 + 4 * 27),
        False,
    ),
    "aim": (
        dict(hidden=4, num_frames=2, scale=1.5, blocks=2, temporal_adapters=2, drop_path=0.1),
        True,
        2 * 4 * (2 * D * 4 + 4 + D) + 2 * D + 2 * D,
        False,
    ),
    "aim-frozen": (dict(hidden=4, num_frames=2, final_norm=False), True, 3 * L * (2 * D * 4 + 4 + D) + 2 * D, False),
}
CASES = [
    pytest.param(row, make, id=f"{row}-{tower}")
    for row in ROWS
    for family in METHODS[row.split("-")[0]].families
    for tower, make in TOWERS[family].items()
]
SOME = [c for c in CASES if c.id.endswith(("-token", "-swin", "-resnet"))]


def place_row(row, encoder):
    arguments = {k: v for k, v in ROWS[row][0].items() if k != "blocks" or encoder.depth == L}
    return ADAPTERS.get(row.split("-")[0])(encoder, **arguments)


def trained(encoder):
    return {n: p for n, p in encoder.named_parameters() if p.requires_grad}


def images_of(encoder, batch=2):
    return torch.randn(batch, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(1))


def features(encoder, images, frames=1):
    """Features of images, or of the frames of clips."""
    tokens, grid = encoder.embed(images, num_frames=frames)
    tokens = encoder.norm(encoder.forward_blocks(tokens, grid), grid)
    pooled = encoder.pool(tokens, grid)
    return torch.cat([pooled, tokens[:, grid.prefix :].mean(1)], 1) if tokens.ndim == 3 else pooled


def frames_of(row):
    return 2 if row.split("-")[0] in ("st_adapter", "aim") else 1


def start(row, make):
    encoder = build(make)
    place_row(row, encoder)
    return encoder.eval()


def test_every_adapter_has_a_row():
    adapters = {n for n, m in METHODS.items() if "adapter" in m.slot and n in ADAPTERS.module_dict}
    assert adapters - {row.split("-")[0] for row in ROWS} == set()


@pytest.mark.parametrize("name", sorted({row.split("-")[0] for row in ROWS}))
def test_every_option_differs_from_its_default_in_some_row(name):
    options = {k: p.default for k, p in inspect.signature(ADAPTERS.get(name)).parameters.items()}
    given = [arguments for row, (arguments, *_) in ROWS.items() if row.split("-")[0] == name]
    same = [k for k, default in options.items() if all(a.get(k, default) == default for a in given)]
    assert set(same) == {"encoder", "name"} & options.keys()


@pytest.mark.parametrize(("row", "make"), [c for c in SOME if c.values[0] != "bitfit" and "-last" not in c.values[0]])
def test_two_of_a_kind_stand_beside_each_other_under_their_own_names(row, make):
    encoder = build(make)
    place_row(row, encoder)
    once = [name for name, _ in placed(encoder)]
    place = ADAPTERS.get(row.split("-")[0])
    place(encoder, **{k: v for k, v in ROWS[row][0].items() if k != "blocks" or encoder.depth == L}, name="own")
    names = [name for name, _ in placed(encoder)]
    own = {name.rsplit(".", 1)[0] for name in names if name.endswith(".own")}
    assert own == {name.rsplit(".", 1)[0] for name in once}
    assert len(names) == 2 * len(once)


BY_BLOCK = sorted(n for n in ADAPTERS.module_dict if "blocks" in inspect.signature(ADAPTERS.get(n)).parameters)


@pytest.mark.parametrize(
    ("blocks", "chosen"), [(1, {2}), (2, {1, 2}), ([0], {0}), ([-3, 1], {0, 1}), (None, {0, 1, 2})]
)
@pytest.mark.parametrize("name", BY_BLOCK)
def test_a_number_of_blocks_means_the_last_ones_and_indices_mean_those(name, blocks, chosen):
    encoder = build(TOWERS["swin" if name == "conv_adapter" else "vit"]["swin" if name == "conv_adapter" else "token"])
    options = dict(norms="none") if name == "conv_adapter" else dict(terms=4) if name == "kadaptation" else {}
    ADAPTERS.get(name)(encoder, blocks=blocks, **options)
    assert {i for i, b in enumerate(encoder.blocks) if any(p.requires_grad for p in b.parameters())} == chosen


@pytest.mark.parametrize(("row", "make"), CASES)
def test_identity_at_the_start_exactly_where_claimed(row, make):
    encoder = build(make)
    images = images_of(encoder)
    before = features(encoder, images, frames_of(row))
    place_row(row, encoder)
    after = features(encoder.eval(), images, frames_of(row))
    same = torch.allclose(before, after, atol=1e-5)
    assert same == ROWS[row][1]


@pytest.mark.parametrize(("row", "make"), CASES)
def test_gradients_only_in_its_own_weights_and_in_all_of_them(row, make):
    encoder = build(make)
    base = {n: p.clone() for n, p in encoder.named_parameters()}
    place_row(row, encoder)
    own = trained(encoder)
    assert own
    refill(encoder, only=lambda p: p.requires_grad)
    images = images_of(encoder).requires_grad_()
    features(encoder.eval(), images, frames_of(row)).pow(2).sum().backward()
    assert images.grad is not None
    got = {n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert got == set(own)
    frozen = {n: p for n, p in encoder.named_parameters() if n in base and n not in own}
    assert all(torch.equal(p, base[n]) for n, p in frozen.items())


@pytest.mark.parametrize(("row", "make"), SOME)
def test_saved_weights_give_the_same_output(row, make):
    first, second = start(row, make), start(row, make)
    refill(first, only=lambda p: p.requires_grad)
    images = images_of(first)
    saved = {n: p.detach().clone() for n, p in trained(first).items()}
    _, unexpected = second.load_state_dict(saved, strict=False)
    assert not unexpected
    frames = frames_of(row)
    torch.testing.assert_close(features(second, images, frames), features(first, images, frames))


@pytest.mark.parametrize(("row", "make"), SOME)
def test_copies_stand_on_their_own(row, make):
    encoder = refill(start(row, make), only=lambda p: p.requires_grad)
    images = images_of(encoder)
    frames = frames_of(row)
    before = features(encoder, images, frames)
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        torch.testing.assert_close(features(twin, images, frames), before)
        for p in twin.parameters():
            if p.requires_grad:
                nn.init.zeros_(p)
        assert not torch.allclose(features(twin, images, frames), before)
        torch.testing.assert_close(features(encoder, images, frames), before)


@pytest.mark.parametrize(("row", "make"), [c for c in SOME if c.values[0] != "bitfit"])
def test_removed_the_tower_is_what_it_was(row, make):
    encoder = build(make)
    images, keys = images_of(encoder), list(encoder.state_dict())
    before = features(encoder, images, frames_of(row))
    place_row(row, encoder)
    refill(encoder, only=lambda p: p.requires_grad and p not in set(encoder_norms(encoder)))
    for container in encoder.modules():
        if isinstance(container, Stream | Edits):
            container.clear()
    assert list(encoder.state_dict()) == keys
    torch.testing.assert_close(features(encoder, images, frames_of(row)), before, rtol=0, atol=0)
    place_row(row, encoder)  # and there is room again


def encoder_norms(encoder):
    """Norms of the tower itself, which Conv-Adapter trains in place."""
    own = {id(p) for _, m in placed(encoder) for p in m.parameters()}
    return [p for p in encoder.parameters() if id(p) not in own]


@pytest.mark.parametrize(("row", "make"), [c for c in CASES if c.id.endswith("-token") or c.id.endswith("-clip")])
def test_the_class_token_does_not_change_when_only_it_is_computed(row, make):
    encoder = refill(start(row, make), only=lambda p: p.requires_grad)
    tokens, grid = encoder.embed(images_of(encoder), num_frames=2)
    whole = encoder.forward_blocks(tokens, grid, read="all")[:, : encoder.num_prefix]
    torch.testing.assert_close(encoder.forward_blocks(tokens, grid, read="prefix"), whole)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if ROWS[r][2] is not None and "vit" in METHODS[r.split("-")[0]].families]
)
def test_number_of_weights(row):
    assert count(start(row, TOWERS["vit"]["token"]), trained_only=True) == ROWS[row][2]


@pytest.mark.parametrize(("row", "make"), [c for c in CASES if ROWS[c.values[0]][3]])
def test_merged_towers_agree(row, make):
    encoder = refill(start(row, make), only=lambda p: p.requires_grad)
    images = images_of(encoder)
    if row == "ssf" and encoder.pool_type == "avg":
        with pytest.raises(ValueError, match="no weight"):
            merge_adapters(encoder)
        return
    merged = merge_adapters(encoder)
    assert not list(placed(merged))
    assert largest_error(encoder, merged, images) < 1e-4 * max(1, float(encoder(images).abs().max()))
    assert largest_error(encoder, build(make), images) > 1e-2


@pytest.mark.parametrize(("row", "make"), [c for c in SOME if ROWS[c.values[0]][3] is False])
def test_what_cannot_be_merged_says_so(row, make):
    with pytest.raises(ValueError, match="merged"):
        merge_adapters(start(row, make))


def test_adapters_compose_in_the_order_they_were_placed():
    encoder = build(TOWERS["vit"]["token"])
    rows = ["vpt", "convpass", "lora", "houlsby", "adaptformer", "st_adapter"]
    for row in rows:
        place_row(row, encoder)
    ADAPTERS.get("vpt")(encoder, num_tokens=2, name="more")
    refill(encoder, only=lambda p: p.requires_grad)
    features(encoder, images_of(encoder), frames=2).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained(encoder).values())
    with pytest.raises(ValueError, match="already holds"):
        place_row("lora", encoder)


def test_two_sets_of_deep_prompts_keep_their_places():
    def run(names):
        encoder = build(TOWERS["vit"]["token"])
        for name, number in names:
            prompts = ADAPTERS.get("vpt")(encoder, num_tokens=number, name=name)[0]
            refill(prompts, std=number)
        return features(encoder, images_of(encoder))

    torch.manual_seed(3)
    one = run([("a", 2), ("b", 3)])
    assert one.isfinite().all()
    encoder = build(TOWERS["vit"]["token"])
    a = ADAPTERS.get("vpt")(encoder, num_tokens=2, name="a")[0]
    b = ADAPTERS.get("vpt")(encoder, num_tokens=3, name="b")[0]
    both = build(TOWERS["vit"]["token"])
    joint = ADAPTERS.get("vpt")(both, num_tokens=5)[0]
    with torch.no_grad():
        joint.tokens.copy_(torch.cat([a.tokens, b.tokens], 1))
        joint.deep.copy_(torch.cat([a.deep, b.deep], 1))
    images = images_of(encoder)
    torch.testing.assert_close(features(encoder, images), features(both, images))
    tokens, _ = encoder.embed(images)
    torch.testing.assert_close(encoder.forward_blocks(tokens), both.forward_blocks(tokens))  # no grid, a point cloud


@pytest.mark.slow
@pytest.mark.parametrize(("row", "make"), SOME)
def test_compiled_blocks_give_the_same(row, make):
    torch._dynamo.reset()
    encoder = refill(start(row, make), only=lambda p: p.requires_grad)
    images = images_of(encoder)
    before = features(encoder, images, frames_of(row))
    for block in encoder.blocks:
        block.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(features(encoder, images, frames_of(row)), before)


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        ("lora", dict(targets=["q", "vv"]), "'v'"),
        ("lora", dict(targets=["q", "qkv"]), "excludes"),
        ("lora", dict(targets=[]), "must be some"),
        ("lora", dict(rank=0), "at least 1"),
        ("lora", dict(blocks=[7]), "0 to 2"),
        ("lora", dict(blocks=[-4]), "0 to 2"),
        ("lora", dict(blocks=[]), "0 to 2"),
        ("lora", dict(blocks=0), "1 to 3"),
        ("lora", dict(blocks=4), "1 to 3"),
        ("lora", dict(blocks=[0, -3]), "twice"),
        ("convpass", dict(sites=["post"]), "attn and/or mlp"),
        ("fact", dict(form="cp"), "tt or tk"),
        ("kadaptation", dict(terms=5), "divide"),
        ("vpt", dict(num_tokens=0), "at least 1"),
        ("vpt", dict(projection=0), "at least 1"),
        ("kadaptation", dict(rank=0, terms=4), "positive"),
        ("kadaptation", dict(targets=["w"], terms=4), "'w'"),
        ("noah", dict(prompt=[1, 2]), "3 numbers"),
        ("noah", dict(lora=-1), "none below 0"),
        ("adaptformer", dict(hidden=0), "at least 1"),
        ("pfeiffer", dict(hidden=0), "at least 1"),
        ("aim", dict(num_frames=0), "at least 1"),
        ("houlsby", dict(hidden=0), "at least 1"),
        ("conv_adapter", dict(), "no ConvNet"),
    ],
)
def test_mistakes_are_explained(row, arguments, message):
    with pytest.raises(ValueError, match=message):
        ADAPTERS.get(row)(build(TOWERS["vit"]["token"]), **arguments)


def test_stochastic_depth_of_a_frozen_swin_is_on_in_training_only():
    options = dict(img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4))
    body = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, drop_path_rate=0.9, **options)
    model = TransferModel(ConvNet(body, 32), dict(type="classification", num_classes=2), [dict(type="lora", rank=2)])
    images = torch.randn(8, 3, 32, 32)
    assert not torch.equal(model.train().features(image=images), model.features(image=images))
    torch.testing.assert_close(model.eval().features(image=images), model.features(image=images))


def test_ssf_needs_operations_with_sites():
    with pytest.raises(ValueError, match="ViT, Swin and ConvNeXt"):
        ADAPTERS.get("ssf")(build(TOWERS["convnet"]["resnet"]))


def test_ssf_scales_every_channel_of_every_operation():
    for family in ("swin", "convnext"):
        encoder = build(TOWERS[family][family])
        wide = sum(m.weight.shape[0] for m in encoder.body.modules() if isinstance(m, OPERATIONS))
        ADAPTERS.get("ssf")(encoder)
        assert count(encoder, trained_only=True) == 2 * wide


OPERATIONS = (nn.Linear, nn.Conv2d, nn.LayerNorm)


def test_frozen_batch_norms_keep_their_statistics():
    encoder = build(TOWERS["convnet"]["resnet"])
    ADAPTERS.get("conv_adapter")(encoder, reduction=4)
    before = {k: v.clone() for k, v in encoder.body.state_dict().items()}
    encoder.train()
    encoder(images_of(encoder, 4) * 3 + 1)
    assert all(torch.equal(v, before[k]) for k, v in encoder.body.state_dict().items() if ".edits." not in k)
    (extra,) = [m for _, m in placed(encoder) if isinstance(m, ExtraNorm)]
    assert extra.training
    assert extra.num_batches_tracked == 1
