"""Names of few-shot methods inside CLIP's towers in their official files, and ours."""

from xmodal.official.names import Converter, register_converter

TOWERS = (("visual.", "clip.visual."), ("", "clip.text."))
BLOCK, LORA = "transformer.resblocks.{i}", "edits.clip_lora.parts"
CLIP_LORA = register_converter(
    Converter(
        "clip_lora",
        [
            pair
            for theirs, ours in TOWERS
            for a in "AB"
            for pair in (
                *(
                    (f"{theirs}{BLOCK}.attn.{p}_proj.w_lora_{a}", f"{ours}blocks.{{i}}.attn.qkv.{LORA}.{p}.{a.lower()}")
                    for p in "qkv"
                ),
                (f"{theirs}{BLOCK}.attn.proj.w_lora_{a}", f"{ours}blocks.{{i}}.attn.proj.{LORA}.whole.{a.lower()}"),
            )
        ],
        sign=r"(visual\.)?transformer\.resblocks\.\d+\.attn\.\w+\.w_lora_A",
    )
)
PARTS = (("ln_1", "norm1"), ("ln_2", "norm2"), ("attn.out_proj", "attn.proj"), ("mlp.c_fc", "mlp.fc1"),
         ("mlp.c_proj", "mlp.fc2"))  # fmt: skip
TOWER_NORMS = [
    *((f"{theirs}{BLOCK}.{a}.{{w}}", f"{ours}blocks.{{i}}.{b}.{{w}}") for theirs, ours in TOWERS for a, b in PARTS),
    ("visual.ln_pre.{w}", "clip.visual.norm_pre.{w}"),
    ("visual.ln_post.{w}", "clip.visual.norm.{w}"),
    ("ln_final.{w}", "clip.text.norm.{w}"),
]
MAPLE = Converter(
    "maple",
    [
        ("prompt_learner.ctx", "ctx"),
        ("prompt_learner.proj.{w}", "proj.{w}"),
        ("prompt_learner.compound_prompts_text.{i}", "text_prompts.{i}"),
        ("prompt_learner.compound_prompt_projections.{i}.{w}", "projections.{i}.{w}"),
    ],
    holder="state_dict",
)
PROMPTSRC = Converter(
    "promptsrc",
    [
        ("prompt_learner.ctx", "ctx"),
        ("image_encoder.VPT", "visual.0"),
        ("image_encoder.transformer.resblocks.{i}.VPT_shallow", "visual.{i}"),
        ("text_encoder.transformer.resblocks.{i+1}.VPT_shallow", "deep.{i}"),
    ],
    holder="state_dict",
)
