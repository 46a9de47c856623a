"""Official EPCL checkpoints (trained parts; the frozen tower is loaded by itself) onto our names and back."""

from xmodal.convert import Converter, register_converter

TASK = r"te_encoder\.(.+)"
EPCL_CLASSIFICATION = register_converter(
    Converter(
        name="epcl-classification",
        reads=(
            (r"encoder\.(.+)", r"tokenizer.encoder.\1"),
            (r"pos_embed\.(.+)", r"epcl.pos_embed.\1"),
            (r"te_encoder\.(.+)", r"epcl.te_encoder.\1"),
            (r"norm\.(.+)", r"norm.\1"),
            (r"proj2emb\.(.+)", r"proj2emb.\1"),
            (r"cls_head_finetune\.(.+)", r"head.\1"),
        ),
        writes=(
            (r"tokenizer\.encoder\.(.+)", r"encoder.\1"),
            (r"epcl\.pos_embed\.(.+)", r"pos_embed.\1"),
            (r"epcl\.te_encoder\.(.+)", r"te_encoder.\1"),
            (r"norm\.(.+)", r"norm.\1"),
            (r"proj2emb\.(.+)", r"proj2emb.\1"),
            (r"head\.(.+)", r"cls_head_finetune.\1"),
        ),
        holder="base_model",
    )
)
EPCL_DENSE = register_converter(
    Converter(
        name="epcl-dense",
        reads=(
            (r"tokenizer\.(.+)", r"tokenizer.\1"),
            (r"encoder\.(pos_embed|te_encoder)\.(.+)", r"epcl.\1.\2"),
            (r"upsamping\.mlp_convs\.0\.(.+)", r"upsampling.0.\1"),
            (r"upsamping\.mlp_bns\.0\.(.+)", r"upsampling.1.\1"),
        ),
        writes=(
            (r"tokenizer\.(.+)", r"tokenizer.\1"),
            (r"epcl\.(pos_embed|te_encoder)\.(.+)", r"encoder.\1.\2"),
            (r"upsampling\.0\.(.+)", r"upsamping.mlp_convs.0.\1"),
            (r"upsampling\.1\.(.+)", r"upsamping.mlp_bns.0.\1"),
        ),
    )
)
