"""Adapters that the package peft wrote run here with its outputs, and ours run there."""

import copy
import json
import warnings

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import xmodal
from xmodal.adapters.peft import DEFAULTS, targets_of

peft = pytest.importorskip("peft")

CONFIGS = [
    dict(r=4, lora_alpha=8, target_modules=["qkv"], modules_to_save=["head"], lora_dropout=0.1),
    dict(r=3, lora_alpha=6, target_modules=["qkv", "fc1", "fc2"], use_dora=True),
    dict(
        r=2,
        target_modules=r"blocks\.\d+\.attn\.(qkv|proj)",
        use_rslora=True,
        bias="all",
        rank_pattern={"blocks.1.attn.qkv": 6},
    ),
    dict(r=3, target_modules=["proj"], exclude_modules=["blocks.0.attn.proj"], alpha_pattern={"attn.proj": 3}),
    dict(r=2, lora_alpha=4, target_modules=["blocks.1.mlp.fc2", "patch_embed.proj"], use_dora=True, bias="lora_only"),
    dict(r=2, target_modules=["fc1"], layers_to_transform=[1], layers_pattern="blocks", lora_bias=True),
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def theirs(model, config):
    """A model of peft with every trained weight moved."""
    wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**config)).eval()
    torch.manual_seed(2)
    for p in wrapped.parameters():
        if p.requires_grad:
            p.data.add_(torch.randn_like(p) * 0.2)
    return wrapped


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c['target_modules']}"[:20])
def test_a_folder_of_peft_gives_its_outputs(model, images, config, tmp_path):
    wrapped = theirs(model, config)
    wrapped.save_pretrained(tmp_path)
    adapted = xmodal.adapt(model, "ssf").load_peft(tmp_path, "mine").eval()
    want = wrapped(images)
    torch.testing.assert_close(adapted(images), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(adapted.merged()(images), want, atol=1e-4, rtol=1e-4)
    adapted.save(tmp_path / "ours")
    again = xmodal.adapt(model, "ssf").load(tmp_path / "ours").eval()
    torch.testing.assert_close(again(images), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(adapted.use(None)(images), model(images), atol=1e-5, rtol=1e-4)


def moved(adapted):
    torch.manual_seed(3)
    with torch.no_grad():
        for p in adapted.trained().values():
            p.add_(torch.randn_like(p) * 0.2)
    return adapted.eval()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("lora", dict(rank=3, alpha=7.5)),
        ("lora", dict(rank=4, targets=["q", "k", "v", "proj", "fc2"], blocks=[1])),
        ("lora", dict(rank=2, alpha=2, targets=["qkv", "fc1"])),
        *(("peft", {"config": config}) for config in CONFIGS),
    ],
)
def test_our_folders_run_in_peft(model, images, method, arguments, tmp_path):
    adapted = moved(xmodal.adapt(model, method, **arguments))
    adapted.save_peft(tmp_path)
    base = copy.deepcopy(model)
    if not arguments.get("config", {"modules_to_save": ["head"]}).get("modules_to_save"):
        base.head.load_state_dict(adapted.head.state_dict())  # peft trains no head here
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(wrapped(images), adapted(images), atol=1e-5, rtol=1e-4)


def test_the_head_is_among_the_modules_to_save_where_there_is_one(model, tmp_path):
    for classes, want in ((5, ["head"]), (0, None)):
        tower = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1, num_heads=3, num_classes=classes
        )
        xmodal.adapt(tower, "lora", rank=2).save_peft(tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == want


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c['target_modules']}"[:20])
def test_gradients_are_those_of_peft(model, images, config, tmp_path):
    config = config | {"lora_dropout": 0.0}
    wrapped = theirs(model, config)
    wrapped.save_pretrained(tmp_path)
    adapted = xmodal.adapt(model, "ssf").load_peft(tmp_path)
    wrapped(images).square().sum().backward()
    adapted.eval()(images).square().sum().backward()
    ours = sorted(float(p.grad.norm()) for k, p in adapted.trained().items() if p.grad is not None and "head" not in k)
    other = sorted(
        float(p.grad.norm()) for k, p in wrapped.named_parameters() if p.grad is not None and "head" not in k
    )
    assert ours == pytest.approx(other, rel=1e-4)


def test_a_new_dora_adapter_trains_and_starts_as_the_tower(model, images):
    config = dict(r=4, target_modules=["qkv", "proj"], use_dora=True, lora_dropout=0.5)
    adapted = xmodal.adapt(model, "peft", config=config)
    torch.testing.assert_close(adapted.eval()(images), model(images), atol=1e-5, rtol=1e-4)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(adapted.train()(images), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_which_modules_a_config_names(model):
    """peft itself says it."""
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    for config in CONFIGS:
        wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**config))
        want = {
            n.removeprefix("base_model.model."): (m.r["default"], m.scaling["default"])
            for n, m in wrapped.named_modules()
            if hasattr(m, "scaling")
        }
        found = targets_of(DEFAULTS | config, names)
        assert found.keys() == want.keys()
        assert all(found[k] == pytest.approx(want[k]) for k in want)


def changed(folder, **more):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | more))


def test_what_does_not_fit_is_refused_and_changes_nothing(model, images, tmp_path):
    theirs(model, CONFIGS[0]).save_pretrained(tmp_path)
    adapted = xmodal.adapt(model, "lora").eval()
    keys = set(adapted.state_dict())
    whole = load_file(tmp_path / "adapter_model.safetensors")
    first = next(iter(whole))
    for tensors, message in (
        ({k: v for k, v in whole.items() if k != first}, "missing: "),
        (whole | {"base_model.model.blocks.9.attn.qkv.lora_A.weight": torch.ones(4, 24)}, "left over: blocks.9"),
        (whole | {first: torch.ones(1, 2)}, "of another shape"),
    ):
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=message):
            adapted.load_peft(tmp_path)
    save_file(whole, tmp_path / "adapter_model.safetensors")
    for more, message in (
        (dict(peft_type="IA3"), "IA3"),
        (dict(init_lora_weights="pissa"), "pissa"),
        (dict(target_modules=["head"], modules_to_save=None), "modules_to_save"),
        (dict(target_modules=["nothing"]), "no module fits"),
    ):
        before = (tmp_path / "adapter_config.json").read_text()
        changed(tmp_path, **more)
        with pytest.raises(ValueError, match=message):
            adapted.load_peft(tmp_path)
        (tmp_path / "adapter_config.json").write_text(before)
    assert set(adapted.state_dict()) == keys
    torch.testing.assert_close(adapted(images), model(images))
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        adapted.load_peft(tmp_path / "none")
    with pytest.raises(ValueError, match="lora and peft"):
        xmodal.adapt(model, "ssf").save_peft(tmp_path)


def test_older_files_load(model, images, tmp_path):
    """`.bin` files, keys without the prefix, the old spelling of magnitudes."""
    wrapped = theirs(model, CONFIGS[1])
    wrapped.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    old = {
        k.replace("magnitude_vector", "magnitude_vector.weight").removeprefix("base_model.model."): v
        for k, v in tensors.items()
    }
    torch.save(old, tmp_path / "adapter_model.bin")
    adapted = xmodal.adapt(model, "lora").load_peft(tmp_path).eval()
    torch.testing.assert_close(adapted(images), wrapped(images), atol=1e-5, rtol=1e-4)
