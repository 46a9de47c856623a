"""Convert names between official ST-Adapter and EVL checkpoints and this suite.

ST-Adapter's `checkpoint-<epoch>.pth` and EVL's `checkpoint-<step>.pth` (keys under `module.`) hold `{model,
optimizer, ...}`, of which `model` holds the trained tensors alone. The mappings work in both directions, so that
import and export are each other's inverse.
"""

from xmodal.convert import Converter, Names, register_converter

ST_ADAPTER_NAMES: Names = (
    (
        r"transformer\.resblocks\.(\d+)\.adapter_(pre_attn|pre_mlp)\.(fc1|fc2|conv)\.(weight|bias)",
        r"encoder.blocks.\1.\2.st_adapter.\3.\4",
    ),
    (r"fc\.(weight|bias)", r"head.fc.\1"),
)
ST_ADAPTER_EXPORT: Names = (
    (
        r"encoder\.blocks\.(\d+)\.(pre_attn|pre_mlp)\.st_adapter\.(fc1|fc2|conv)\.(weight|bias)",
        r"transformer.resblocks.\1.adapter_\2.\3.\4",
    ),
    (r"head\.fc\.(weight|bias)", r"fc.\1"),
)
EVL_NAMES: Names = (
    (r"decoder\.cls_token", "reader.query"),
    (r"decoder\.decoder_layers\.(\d+)\.attn\.(\w+)\.(weight|bias)", r"reader.decoder.\1.attn.\2.\3"),
    (r"decoder\.decoder_layers\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"reader.decoder.\1.\2.\3"),
    (r"decoder\.decoder_layers\.(\d+)\.(norm[123])\.(weight|bias)", r"reader.decoder.\1.\2.\3"),
    (r"decoder\.temporal_conv\.(\d+)\.(weight|bias)", r"reader.decoder.\1.temporal_conv.\2"),
    (r"decoder\.temporal_pos_embed\.(\d+)", r"reader.decoder.\1.temporal_pos_embed"),
    (r"decoder\.cross_attention\.(\d+)\.(w[12])", r"reader.decoder.\1.cross_attention.\2"),
    (r"proj\.0\.(weight|bias)", r"head.norm.\1"),
    (r"proj\.2\.(weight|bias)", r"head.fc.\1"),
)
EVL_EXPORT: Names = (
    (r"reader\.query", "decoder.cls_token"),
    (r"reader\.decoder\.(\d+)\.attn\.(\w+)\.(weight|bias)", r"decoder.decoder_layers.\1.attn.\2.\3"),
    (r"reader\.decoder\.(\d+)\.(fc[12])\.(weight|bias)", r"decoder.decoder_layers.\1.mlp.\2.\3"),
    (r"reader\.decoder\.(\d+)\.(norm[123])\.(weight|bias)", r"decoder.decoder_layers.\1.\2.\3"),
    (r"reader\.decoder\.(\d+)\.temporal_conv\.(weight|bias)", r"decoder.temporal_conv.\1.\2"),
    (r"reader\.decoder\.(\d+)\.temporal_pos_embed", r"decoder.temporal_pos_embed.\1"),
    (r"reader\.decoder\.(\d+)\.cross_attention\.(w[12])", r"decoder.cross_attention.\1.\2"),
    (r"head\.norm\.(weight|bias)", r"proj.0.\1"),
    (r"head\.fc\.(weight|bias)", r"proj.2.\1"),
)


ST_ADAPTER = register_converter(Converter("st_adapter", ST_ADAPTER_NAMES, ST_ADAPTER_EXPORT))
EVL = register_converter(Converter("evl", EVL_NAMES, EVL_EXPORT, prefix="module."))
