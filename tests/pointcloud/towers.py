"""A tower small enough for tests."""

from xmodal.encoders.vit import VisionTransformer


def small_tower(dim=32, depth=2, **options):
    options = {"act": "quick_gelu", "pre_norm": True, "out_dim": 16, "num_heads": 4, **options}
    return VisionTransformer(image_size=16, patch_size=8, dim=dim, depth=depth, **options)
