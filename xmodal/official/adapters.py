"""Names in the official checkpoints of the image adapters, and ours.

The files of Convpass, FacT, SSF and KAdaptation hold the trained tensors (and the classifier); those of VPT and VQT the
prompts and the classifier beside the tower.
"""

from xmodal.official.names import Converter, Pairs, register_converter

HEAD, LAST_LAYER, LINEAR = "head.{w}", "head.last_layer.{w}", "head.linear.{w}"


def named(name: str, pairs: Pairs, head: str = HEAD) -> Converter:
    """Register a converter of an adapter and of the classifier on it."""
    return register_converter(Converter(name, (*pairs, (head, "head.fc.{w}"))))


BLOCK, OURS = "blocks.{i}", "encoder.blocks.{i}"
FIRST = "encoder.blocks.0.attn.qkv.edits"

CONVPASS = named(
    "convpass",
    [
        (f"{BLOCK}.adapter_{site}.adapter_{part}.{{w}}", f"{OURS}.{site}.edits.convpass.{part}.{{w}}")
        for site in ("attn", "mlp")
        for part in ("down", "conv", "up")
    ],
)
FACT = named(
    "fact",
    [
        ("FacTu.weight", f"{FIRST}.fact.factors.u"),
        ("FacTv.weight", f"{FIRST}.fact.factors.v"),
        ("FacTp", f"{FIRST}.fact.factors.p"),
        ("FacTc", f"{FIRST}.fact.factors.c"),
        *((f"{BLOCK}.attn.{p}_FacTs.weight", f"{OURS}.attn.qkv.edits.fact.cores.{p}") for p in "qkv"),
        (f"{BLOCK}.attn.proj_FacTs.weight", f"{OURS}.attn.proj.edits.fact.cores.s"),
        *((f"{BLOCK}.mlp.{p}_FacTs.weight", f"{OURS}.mlp.{p}.edits.fact.cores.s") for p in ("fc1", "fc2")),
    ],
)
SSF_SITES = {
    "ssf_{w}_1": "encoder.norm",
    "patch_embed.ssf_{w}_1": "encoder.patch_embed",
    f"{BLOCK}.ssf_{{w}}_1": f"{OURS}.norm1",
    f"{BLOCK}.ssf_{{w}}_2": f"{OURS}.norm2",
    f"{BLOCK}.attn.ssf_{{w}}_1": f"{OURS}.attn.qkv",
    f"{BLOCK}.attn.ssf_{{w}}_2": f"{OURS}.attn.proj",
    f"{BLOCK}.mlp.ssf_{{w}}_1": f"{OURS}.mlp.fc1",
    f"{BLOCK}.mlp.ssf_{{w}}_2": f"{OURS}.mlp.fc2",
}
SSF = named("ssf", [(official, f"{ours}.edits.ssf.{{w}}") for official, ours in SSF_SITES.items()])
VPT = named(
    "vpt",
    [
        ("enc.transformer.prompt_embeddings", "encoder.pre_blocks.vpt.tokens"),
        ("enc.transformer.deep_prompt_embeddings", "encoder.pre_blocks.vpt.deep"),
        ("enc.transformer.prompt_proj.{w}", "encoder.pre_blocks.vpt.projection.{w}"),
    ],
    LAST_LAYER,
)
VQT = named(
    "vqt",
    [
        ("enc.transformer.encoder.query_prompt_embeddings", "reader.queries"),
        ("enc.combine_params", "reader.coefficients"),
    ],
    LAST_LAYER,
)
K_SITE = "attn.qkv.edits.kadaptation"


KADAPTATION = named(
    "kadaptation",
    [
        *(
            (f"transformer.phm_rule{n}_{{w}}", f"encoder.blocks.0.{K_SITE}.parts.{p}.slow.{{w}}")
            for n, p in ((1, "q"), (2, "v"))
        ),
        *(
            (f"transformer.resblocks.{{i}}.attn.{p}_proj_adapter1_{{w}}", f"{OURS}.{K_SITE}.parts.{p}.{{w}}")
            for p in "qv"
        ),
        ("transformer.resblocks.{i}.attn.b", f"{OURS}.{K_SITE}.bias"),
    ],
)
NOAH = named(
    "noah",
    [
        (f"{BLOCK}.visual_prompt_token", f"{OURS}.pre_attn.noah.tokens"),
        (f"{BLOCK}.attn.LoRA_{{w}}.weight", f"{OURS}.attn.qkv.edits.noah.{{w}}"),
        (f"{BLOCK}.adapter.ln1.{{w}}", f"{OURS}.mlp.edits.noah.down.{{w}}"),
        (f"{BLOCK}.adapter.ln2.{{w}}", f"{OURS}.mlp.edits.noah.up.{{w}}"),
    ],
)
PARALLEL = (("down_proj.{w}", "down.{w}"), ("up_proj.{w}", "up.{w}"), ("scale", "scale"),
            ("adapter_layer_norm_before.{w}", "norm.{w}"))  # fmt: skip
ADAPTFORMER = named(
    "adaptformer",
    [(f"{BLOCK}.adaptmlp.{a}", f"{OURS}.mlp_branch.edits.adaptformer.{b}") for a, b in PARALLEL]
    + [("head.1.{w}", "head.fc.{w}"), ("fc_norm.{w}", "encoder.fc_norm.{w}")],
)
FILTERS = (
    ("project1.{w}", "down.{w}"),
    ("project2.{w}", "up.{w}"),
    ("adapter_conv.projector.{w}", "mix.{w}"),
    *((f"adapter_conv.conv{n + 1}.{{w}}", f"filters.{n}.{{w}}") for n in range(3)),
    ("norm.{w}", "norm.{w}"),
    ("gamma", "gamma"),
    ("gammax", "gammax"),
)
MONA = named(
    "mona",
    [
        (f"layers.{{i}}.blocks.{{j}}.my_module_{n}.{a}", f"encoder.body.layers.{{i}}.blocks.{{j}}.{site}.mona.{b}")
        for n, site in ((1, "pre_mlp"), (2, "post"))
        for a, b in FILTERS
    ],
)


def adapter_plus(name: str, position: str, attention: str = "", norms: bool = False, sign: str = "") -> Converter:
    """A converter of Adapter+'s code for adapters at one site, another at attention's, and trained norms."""
    parts = (("bottleneck.1.{w}", "down.{w}"), ("bottleneck.4.{w}", "up.{w}"), ("scaling", "scale"),
             ("norm_a.{w}", "norm.{w}"))  # fmt: skip
    places = {"adapter": position} | ({"adapter_attn": attention} if attention else {})
    pairs = [(f"{BLOCK}.{p}.{a}", f"{OURS}.{site}.adapter_plus.{b}") for p, site in places.items() for a, b in parts]
    if norms:
        pairs += [(f"{BLOCK}.norm{n}.{{w}}", f"{OURS}.norm{n}.{{w}}") for n in (1, 2)]
        pairs += [("norm.{w}", "encoder.norm.{w}")]
    return Converter(name, (*pairs, (HEAD, "head.fc.{w}")), "vit.", "state_dict", sign=sign)


ADAPTER_PLUS = register_converter(adapter_plus("adapter_plus", "post", sign=r"blocks\.\d+\.adapter\."))
ADAPTER_PLUS_HOULSBY = register_converter(
    adapter_plus("adapter_plus_houlsby", "mlp_branch.edits", "attn_branch.edits", True, r"blocks\.\d+\.adapter_attn\.")
)
PARTS = (("conv1.{w}", "conv.{w}"), ("conv2.{w}", "up.{w}"), ("se", "alpha"))
LINEAR_PARTS = (("fc1.{w}", "fc1.{w}"), ("fc2.{w}", "fc2.{w}"), ("se", "alpha"))


def conv_adapter(family: str, places: dict[str, str], trained: dict[str, str]) -> Converter:
    """The converter of one family: where official adapters stand, and which keys of the tower train beside them."""
    pairs = [
        (f"{theirs}.{a}", f"encoder.body.{ours}.edits.conv_adapter.{b}")
        for theirs, ours in places.items()
        for a, b in PARTS
    ]
    pairs += [(theirs, f"encoder.{ours}") for theirs, ours in trained.items()]
    pool = [(f"attnpool.tuning_module.{a}", f"encoder.body.attnpool.edits.conv_adapter.{b}") for a, b in LINEAR_PARTS]
    return named(f"conv_adapter_{family}", pairs + pool, LINEAR)


CONV_ADAPTERS = {
    "resnet": conv_adapter(
        "resnet",
        {"layer{i}.{j}.tuning_module": "layer{i}.{j}.conv"},
        {"norm.{w}": "norm.edits.conv_adapter.{w}"},
    ),
    "convnext": conv_adapter(
        "convnext",
        {
            "stages.{i}.{j}.tuning_module": "stages.{i}.blocks.{j}.conv",
            "tuning_module_downsample.{i}": "stages.{i+1}.downsample.1",
        },
        {"stages.{i}.{j}.norm.{w}": "body.stages.{i}.blocks.{j}.norm.{w}", "norm.{w}": "body.head.norm.{w}"},
    ),
    "swin": conv_adapter(
        "swin",
        {"layers.{i}.blocks.{j}.tuning_module": "layers.{i}.blocks.{j}.attn"},
        {
            "layers.{i}.blocks.{j}.norm1.{w}": "body.layers.{i}.blocks.{j}.norm1.{w}",
            "layers.{i}.blocks.{j}.norm2.{w}": "body.layers.{i}.blocks.{j}.norm2.{w}",
            "layers.{i}.downsample.norm.{w}": "body.layers.{i+1}.downsample.norm.{w}",
            "patch_embed.norm.{w}": "body.patch_embed.norm.{w}",
            "norm.{w}": "body.norm.{w}",
        },
    ),
}
CONVPASS_SWIN = named(
    "convpass_swin",
    [
        (
            f"layers.{{i}}.blocks.{{j}}.adapter_{site}.adapter_{part}.{{w}}",
            f"encoder.body.layers.{{i}}.blocks.{{j}}.{site}.edits.convpass.{part}.{{w}}",
        )
        for site in ("attn", "mlp")
        for part in ("down", "conv", "up")
    ],
)
