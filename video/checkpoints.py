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
                (f"backbone.{BLOCK}.{theirs}.D_{fc}.{{w}}", f"{SITES}.{ours}.{layer}.{{w}}")
                for theirs, ours in ADAPTERS.items()
                for fc, layer in (("fc1", "down"), ("fc2", "up"))
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
TRUNK = r"visual\.(class_embedding|positional_embedding|conv1|ln_pre|ln_post|proj$|transformer\.resblocks).*"
SIDE = "visual.transformer.side_transformer.{i}"
SIDE4VIDEO = register_converter(
    Converter(
        "side4video",
        [
            ("visual.side_conv1.{w}", "reader.stem.{w}"),
            ("visual.side_pre_bn3d.{w}", "reader.stem_norm.{w}"),
            ("visual.side_post_bn.{w}", "reader.post_norm.{w}"),
            ("visual.transformer.side_spatial_position_embeddings", "reader.positions"),
            ("visual.transformer.side_lns.{i}.{w}", "reader.side.{i}.ln_in.{w}"),
            ("visual.transformer.side_linears.{i}.{w}", "reader.side.{i}.linear.{w}"),
            *((f"{SIDE}.bn_{n}.{{w}}", f"reader.side.{{i}}.bn{n}.{{w}}") for n in (1, 2)),
            (f"{SIDE}.mlp.{{x}}", "reader.side.{i}.{x}"),
            (f"{SIDE}.ln_1.{{w}}", "reader.side.{i}.ln.{w}"),
            (f"{SIDE}.{{x}}", "reader.side.{i}.{x}"),
            ("fc.{w}", "head.fc.{w}"),
        ],
        holder="model_state_dict",
        ignored=TRUNK,
        sign=r"visual\.transformer\.side_",
    )
)
EVA_SIDE = "visual.side_blocks.{i}"
SIDE4VIDEO_EVA = register_converter(
    Converter(
        "side4video_eva",
        [
            ("visual.side_conv1.{w}", "reader.stem.{w}"),
            ("visual.side_pre_bn3d.{w}", "reader.stem_norm.{w}"),
            ("visual.side_spatial_position_embeddings", "reader.positions"),
            ("visual.side_lns.{i}.{w}", "reader.side.{i}.ln_in.{w}"),
            ("visual.side_linears.{i}.{w}", "reader.side.{i}.linear.{w}"),
            *((f"{EVA_SIDE}.bn_{n}.{{w}}", f"reader.side.{{i}}.bn{n}.{{w}}") for n in (1, 2)),
            (f"{EVA_SIDE}.mlp.0.{{w}}", "reader.side.{i}.fc1.{w}"),
            (f"{EVA_SIDE}.mlp.2.{{w}}", "reader.side.{i}.fc2.{w}"),
            (f"{EVA_SIDE}.ln_1.{{w}}", "reader.side.{i}.ln.{w}"),
            (f"{EVA_SIDE}.{{x}}", "reader.side.{i}.{x}"),
            ("fc.{w}", "head.fc.{w}"),
        ],
        holder="model_state_dict",
        ignored=r"visual\.(cls_token|pos_embed|patch_embed|blocks|norm|head)(\..*)?",
        sign=r"visual\.side_",
    )
)
JOIN, POOL = "reader.join.{i}", "reader.pooling.{i}"
READING = {
    "space": ("spatial_transformer", "ln_out_spat_cls_token", "output_map_spatial_cls_token"),
    "time": ("temporal_transformer", "ln_out_temp_cls_token", "output_map_cls_token"),
}
DIST = register_converter(
    Converter(
        "dist",
        [
            ("dist_net.temporal_stem.{w}", "reader.stem.{w}"),
            ("dist_net.input_linears.{i}.{w}", f"{JOIN}.input.{{w}}"),
            ("dist_net.integration2temporal_nets.{i}.linear_fuse.{w}", f"{JOIN}.up.{{w}}"),
            ("dist_net.temporal2integration_nets.{i}.linear_fuse.{w}", f"{JOIN}.down.{{w}}"),
            ("dist_net.temporal2integration_nets.{i}.cls_token", f"{JOIN}.cls_token"),
            ("dist_net.temporal_nets.{i}.ln.{w}", f"{JOIN}.norm.{{w}}"),
            *((f"dist_net.temporal_nets.{{i}}.temporal_net.c_fc{n}.{{w}}", f"{JOIN}.conv{n}.{{w}}") for n in (1, 2)),
            *((f"dist_net.integration_nets.{{i}}.{n}.{{w}}", f"{JOIN}.{n}.{{w}}") for n in ("ln", "ln_temporal")),
            ("dist_net.integration_nets.{i}.ffn.c_fc.{w}", f"{JOIN}.ffn.0.{{w}}"),
            ("dist_net.integration_nets.{i}.ffn.c_proj.{w}", f"{JOIN}.ffn.2.{{w}}"),
            *(
                (f"dist_net.integration_nets.{{i}}.temporal_ffn.{a}.{{w}}", f"{JOIN}.temporal_ffn.{b}.{{w}}")
                for a, b in (("c_fc1", 0), ("c_fc2", 1), ("c_proj", 3))
            ),
            ("dist_net.adapooling_nets.{i}.positional_embedding", f"{POOL}.positions"),
            *(
                (f"dist_net.adapooling_nets.{{i}}.{a}.{{x}}", f"{POOL}.{kind}.{b}.{{x}}")
                for kind, (reading, norm, mlp) in READING.items()
                for a, b in ((f"{reading}.attn", "attn"), (f"{reading}.ln_1", "ln"), (norm, "ln_out"),
                             (f"{mlp}.c_fc", "mlp.0"), (f"{mlp}.c_proj", "mlp.2"))
            ),
            ("dist_net.proj_spatial_cls_token.{w}", "reader.cls_proj.{w}"),
            ("dist_net.ln_post.{w}", "reader.norm.{w}"),
            ("dist_net.proj", "reader.proj"),
            ("dist_net.aggregated_cls_token", "reader.query"),
            ("dist_net.aggregated_spatial_cls_token", "reader.frame_query"),
        ],
        prefix="backbone.base_encoder.",
        holder="model_state",
        ignored=r"(?!dist_net).*",
        sign="dist_net",
    )
)  # fmt: skip
