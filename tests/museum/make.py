"""Make the exhibits that are not there: python -m tests.museum.make. What is there is never made again."""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

import xmodal
from tests.engine.test_resume import KilledError
from tests.museum import exhibits
from tests.museum.exhibits import FILES, models, outputs, train
from xmodal.engine import launch
from xmodal.engine.checkpoint import load_weights
from xmodal.registry import MODELS, build


def run_of(name: str, folder: Path, work: Path) -> None:
    """A finished run: last and best checkpoint, report, dump, and the outputs of the best."""
    train(name, work)
    suffix = ".npz" if models()[name][0] == "clips" else ".json"
    cfg = exhibits.config(name, work)
    if models()[name][0] not in ("points", "boxes"):
        cfg.test_evaluator.dump = str(folder / f"dump{suffix}")
    launch.evaluate(cfg, str(work / "last.pth"))
    kept = ("last.pth",) if name in ("video-st-adapter", "image-lora") else ()  # with the optimizer: three times as big
    for file in (*kept, "best.pth", "report.json", "test.json"):
        shutil.copy(work / file, folder / file)
    model: Any = build(cfg.model, MODELS)
    load_weights(model, folder / "best.pth")
    np.savez_compressed(folder / "outputs.npz", **outputs(name, model))


def mid_epoch(folder: Path, work: Path) -> None:
    """The state after 3 of 8 steps, and the weights at the end of the run that was not cut."""
    cut = dict(train_cfg=dict(type="xmodal.engine.loops.TrainLoop", max_epochs=2, val_interval=1))
    train("video-st-adapter", work, **cut)
    end = torch.load(work / "last.pth", weights_only=True)["state_dict"]
    np.savez_compressed(folder / "outputs.npz", **{k: v.numpy() for k, v in end.items()})
    other = work / "cut"
    cfg = exhibits.config("video-st-adapter", other)
    cfg.custom_hooks = [dict(type="tests.engine.test_resume.Kill", step=4)]
    with suppress(KilledError):
        launch.train(cfg)
    shutil.copy(other / "last.pth", folder / "last.pth")


def cache(folder: Path, work: Path) -> None:
    """The frozen-prefix cache of EVL, and the features computed from it."""
    from xmodal.engine.frozen_cache import FrozenCache

    torch.manual_seed(0)
    model: Any = build(models()["video-evl"][1], MODELS)
    load_weights(model, FILES / "video-evl" / "best.pth")
    data = exhibits.Samples("clips", 5, 1)
    for dtype in ("float16", "int8"):
        kept = FrozenCache(model, data, work, dtype=dtype, shard=3, batch=2)
        kept.fill(0, 1)
        shutil.copytree(kept.folder, folder / dtype)
    np.savez_compressed(folder / "outputs.npz", **{d: cached_logits(model, folder / d, d) for d in ("float16", "int8")})


def cached_logits(model: Any, folder: Path, dtype: str) -> np.ndarray:
    """Logits from the cache in a folder, whatever its key would be today."""
    from xmodal.data.collate import collate
    from xmodal.engine.frozen_cache import FrozenCache

    kept = FrozenCache(model, exhibits.Samples("clips", 5, 1), folder.parent, dtype=dtype, shard=3)
    kept.folder = folder
    data = kept.read()
    with torch.no_grad():
        return model.eval()(**collate([data[i] for i in range(len(data))])).numpy()


def adapted(folder: Path, work: Path) -> None:
    """Two adapters of `xmodal.adapt` on one tower, after a step of training."""
    arrays = {}
    model = xmodal.adapt(exhibits.tower(), "lora", num_classes=3, rank=2, alpha=3, name="first")
    for name in ("first", "second"):
        if name == "second":
            model.add("ssf", name="second")
        step(model)
        model.save(folder / name)
        with torch.no_grad():
            arrays[name] = model.eval()(exhibits.images()).numpy()
    np.savez_compressed(folder / "outputs.npz", **arrays)


def step(model: Any) -> None:
    """One step of training on drawn images."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        torch.nn.functional.cross_entropy(model(exhibits.images()), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
        optimizer.zero_grad()


def merged(folder: Path, work: Path) -> None:
    """A tower with LoRA folded in, under timm's names, and the logits it must give in timm."""
    from safetensors.torch import save_file

    from tools.merge import plain_state
    from xmodal.merge import merge_adapters

    model: Any = build(models()["image-lora"][1], MODELS)
    load_weights(model, FILES / "image-lora" / "best.pth")
    save_file(plain_state(merge_adapters(model.encoder), model.head), folder / "merged.safetensors")
    with torch.no_grad():
        logits = model.eval()(image=exhibits.images())
    np.savez_compressed(folder / "outputs.npz", logits=logits.numpy())


def fewshot(folder: Path, work: Path) -> None:
    """A CoOp run in Dassl's layout and Tip-Adapter-F's keys, after moving them a little."""
    from xmodal.official.prompts import save_dassl, save_tip_keys

    arrays = {}
    for name, head in (("coop", exhibits.coop_head()), ("tip", exhibits.tip_head())):
        with torch.no_grad():
            for i, p in enumerate(p for p in head.parameters() if p.requires_grad):
                noise = np.random.default_rng(i).normal(size=tuple(p.shape))
                p.add_(0.1 * torch.from_numpy(noise).float())
            arrays[name] = head(exhibits.features()).numpy()
        if name == "coop":
            save_dassl(head, folder / "coop", 3)
        else:
            save_tip_keys(head, folder / "best_F_2shots.pt")
    np.savez_compressed(folder / "outputs.npz", **arrays)


def main() -> None:
    """Make what is missing."""
    makers = {name: lambda f, w, n=name: run_of(n, f, w) for name in models()}
    makers |= {"mid-epoch": mid_epoch, "cache": cache, "adapted": adapted, "merged": merged, "fewshot": fewshot}
    torch.set_num_threads(1)
    for name, make in makers.items():
        folder = FILES / name
        if folder.exists():
            print(f"{name}: is there")
            continue
        with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as fresh:
            torch.manual_seed(0)
            make(Path(fresh), Path(work))
            shutil.copytree(fresh, folder)
        print(f"{name}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1024:.0f} KB")


if __name__ == "__main__":
    main()
