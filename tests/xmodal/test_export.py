import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import xmodal
from tests.video.videos import write_video
from video.decode import VideoFile
from xmodal.engine.config import load_config
from xmodal.export import NOTES, export, random_frames
from xmodal.registry import MODELS, build

ROOT = Path(__file__).parents[2]
TINY = sorted(p for p in ROOT.glob("configs/*/*tiny-clip*.py") if p.parent.name in ("video", "image"))
ONNX = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("onnx", "onnxscript", "onnxruntime")), reason="needs onnxruntime"
)


def model_of(path: Path):
    """The model of a config, its trained parts moved away from the identity; T or None."""
    cfg = load_config(path, [])
    torch.manual_seed(0)
    model = build(cfg.model, MODELS).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model, cfg.test_dataloader.dataset.get("num_frames")


def by_hand(model, frames: torch.Tensor) -> torch.Tensor:
    """Probabilities of uint8 frames, written out."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.encoder.pixel_mean, model.encoder.pixel_std))
    pixels = (frames.float() / 255 - mean) / std
    inputs = {"image": pixels} if pixels.ndim == 4 else {"clips": pixels[:, None]}
    with torch.no_grad():
        return model(**inputs).softmax(-1)


def test_graph_of_an_image_model_needs_nothing_but_torch(tmp_path: Path):
    model, _ = model_of(ROOT / "configs/image/lora_tiny-clip_48_digits.py")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = model.export(tmp_path / "a.pt2", classes=["zero", "one"], notes={"config": "x.py"})
    assert found.free == ("batch",)
    kept = {NOTES: ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=kept)
    notes = json.loads(kept[NOTES])
    assert notes["classes"] == ["zero", "one"]
    assert notes["input"]["shape"] == [None, 3, 48, 48]
    assert notes["config"] == "x.py"
    assert not any("lora" in name for name in program.state_dict)  # folded into the weights
    frames = random_frames(7, None, 48)
    torch.testing.assert_close(program.module()(frames), by_hand(model, frames), atol=1e-5, rtol=0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_frames_are_free_where_the_method_allows(tmp_path: Path):
    model, frames = model_of(ROOT / "configs/video/st-adapter_tiny-clip_8u_actions8.py")
    assert model.export(tmp_path / "a.pt2", num_frames=frames).free == ("batch", "frame")
    graph = torch.export.load(tmp_path / "a.pt2").module()
    clips = random_frames(3, 5, 48)
    torch.testing.assert_close(graph(clips), by_hand(model, clips), atol=1e-5, rtol=0)


@ONNX
def test_onnx_runs_in_onnxruntime(tmp_path: Path):
    import onnxruntime

    model, frames = model_of(ROOT / "configs/video/evl_tiny-clip_8u_actions8.py")
    assert model.export(tmp_path / "a.onnx", num_frames=frames, classes=["a", "b"]).free == ("batch",)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["xmodal_json"])["classes"] == ["a", "b"]
    clips = random_frames(3, 8, 48)
    got = session.run(None, {"frames": clips.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), by_hand(model, clips), atol=1e-5, rtol=0)


def test_adapted_models_export_the_adapter_in_use(tmp_path: Path):
    torch.manual_seed(0)
    given = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    adapted = xmodal.adapt(given, "ssf", num_classes=4).add("lora", "second", num_classes=3).eval()
    for parameter in adapted.trained().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.export(tmp_path / "a.pt2")
    frames = random_frames(3, None, 32)
    want = adapted((frames.float() / 255 - 0.5) / 0.5).softmax(-1)
    got = torch.export.load(tmp_path / "a.pt2").module()(frames)
    assert got.shape == (3, 3)
    torch.testing.assert_close(got, want.detach(), atol=1e-5, rtol=0)


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path):
    model, _ = model_of(ROOT / "configs/image/probe_tiny-clip_48_digits.py")
    with pytest.raises(ValueError, match=r"a\.pth: a graph's file ends in \.pt2 or \.onnx"):
        model.export(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pt2: the graph's probabilities differ by .*, allowed -1e\+00"):
        model.export(tmp_path / "a.pt2", tolerance=-1)
    with pytest.raises(ValueError, match="Linear has no graph to export"):
        export(torch.nn.Linear(2, 2), tmp_path / "a.pt2", image_size=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["pt2", pytest.param("onnx", marks=[ONNX, pytest.mark.slow])])
@pytest.mark.parametrize("config", TINY, ids=lambda p: p.stem)
def test_every_method_exports(tmp_path: Path, config: Path, ending: str):
    model, frames = model_of(config)
    found = model.export(tmp_path / f"a.{ending}", num_frames=frames)
    assert "batch" in found.free
    assert found.difference < 1e-4


@ONNX
def test_the_example_of_the_page_runs_without_xmodal(tmp_path: Path):
    model, frames = model_of(ROOT / "configs/video/probe_tiny-clip_8u_actions8.py")
    names = [f"class {i}" for i in range(8)]
    model.export(tmp_path / "a.onnx", num_frames=frames, classes=names)
    film = write_video(tmp_path / "a.mp4", frames=40, size=(64, 96))
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.S).group(1)
    (tmp_path / "example.py").write_text("import sys\nsys.modules['xmodal'] = sys.modules['torch'] = None\n" + code)
    words = [sys.executable, "example.py", "a.onnx", str(film)]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    with VideoFile(film) as video:
        shown = video.read([int((i + 0.5) * 40 / frames) for i in range(frames)])[:, :, 16:80]
    at = ((torch.arange(48) + 0.5) * 64 / 48).int()
    clip = torch.from_numpy(shown)[:, at][:, :, at].permute(0, 3, 1, 2)[None]
    want = by_hand(model, clip)[0]
    assert said == [f"{100 * want[i]:6.2f} %  class {i}" for i in want.argsort(descending=True)[:3].tolist()]
