"""Names in official ST-Adapter, AIM and EVL checkpoints, and ours.

ST-Adapter's `checkpoint-<epoch>.pth` and EVL's `checkpoint-<step>.pth` (keys under `module.`) hold `{model,
optimizer, ...}`, of which `model` holds the trained tensors alone. AIM's hold the whole model under `state_dict`; the
frame count is that of `backbone.temporal_embedding`.
"""

from xmodal.official.names import Converter, register_converter

ST_ADAPTER = register_converter(
    Converter(
        "st_adapter",
        [
            *(
                (f"transformer.resblocks.{{i}}.adapter_{site}.{{x}}", f"encoder.blocks.{{i}}.{site}.st_adapter.{{x}}")
                for site in ("pre_attn", "pre_mlp")
            ),
            ("fc.{w}", "head.fc.{w}"),
        ],
    )
)
BLOCK, SITES = "transformer.resblocks.{i}", "encoder.blocks.{i}"
ADAPTERS = {
    "T_Adapter": "pre_attn.aim.adapter",
    "T_Adapter_in": "pre_attn.aim.inner",
    "S_Adapter": "attn.edits.aim",
    "MLP_Adapter": "mlp.edits.aim",
}
AIM = register_converter(
    Converter(
        "aim",
        [
            ("backbone.temporal_embedding", "encoder.embedded.aim.embedding"),
            *(
                (f"backbone.{BLOCK}.{theirs}.D_{fc}.{{w}}", f"{SITES}.{ours}.{fc}.{{w}}")
                for theirs, ours in ADAPTERS.items()
                for fc in ("fc1", "fc2")
            ),
            ("backbone.ln_post.{w}", "encoder.norm.{w}"),
            ("cls_head.fc_cls.{w}", "head.fc.{w}"),
        ],
        holder="state_dict",
        ignored=r"backbone\.(conv1|class_emb|positional_emb|ln_pre|transformer\.resblocks\.\d+\.(attn|mlp|ln_[12])\.).*",
        sign=r"backbone\..*(Adapter|temporal_embedding)",
    )
)
LAYER, OURS = "decoder.decoder_layers.{i}", "reader.decoder.{i}"
EVL = register_converter(
    Converter(
        "evl",
        [
            ("decoder.cls_token", "reader.query"),
            (f"{LAYER}.attn.{{x}}", f"{OURS}.attn.{{x}}"),
            *((f"{LAYER}.mlp.fc{n}.{{w}}", f"{OURS}.fc{n}.{{w}}") for n in (1, 2)),
            *((f"{LAYER}.norm{n}.{{w}}", f"{OURS}.norm{n}.{{w}}") for n in (1, 2, 3)),
            ("decoder.temporal_conv.{i}.{w}", f"{OURS}.temporal_conv.{{w}}"),
            ("decoder.temporal_pos_embed.{i}", f"{OURS}.temporal_pos_embed"),
            ("decoder.cross_attention.{i}.{w}", f"{OURS}.cross_attention.{{w}}"),
            ("proj.0.{w}", "head.norm.{w}"),
            ("proj.2.{w}", "head.fc.{w}"),
        ],
        prefix="module.",
    )
)
POOLER, CROSS = "pooler.cross_attention_block", "reader.cross"
VJEPA2_PROBE = register_converter(
    Converter(
        "vjepa2_probe",
        [
            ("pooler.query_tokens", "reader.query"),
            (f"{POOLER}.xattn.{{w}}.{{x}}", f"{CROSS}.{{w}}.{{x}}"),
            (f"{POOLER}.{{x}}", f"{CROSS}.{{x}}"),
            ("pooler.blocks.{i}.{x}", "reader.blocks.{i}.{x}"),
            ("linear.{w}", "head.fc.{w}"),
        ],
        prefix="module.",
        sign="pooler",
    )
)
EFFICIENT_PROBE = register_converter(
    Converter(
        "efficient_probe",
        [
            ("head.0.cls_token", "reader.queries"),
            ("head.0.v.{w}", "reader.v.{w}"),
            ("head.1.{w}", "head.norm.{w}"),
            ("head.2.{w}", "head.fc.{w}"),
        ],
        sign=r"head\.0\.cls_token",
    )
)
