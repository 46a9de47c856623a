"""Answering for files: reading and computing side by side against one after the other, in one run."""

import statistics
import time
from typing import Any

from tools.benches.data import folder, write_video
from tools.benches.video import encoder, head
from xmodal.engine.config import set_defaults
from xmodal.engine.predict import Predictor


def predictor(args: Any) -> Predictor:
    """A linear probe of the size that is asked for, as a checkpoint would give it."""
    from mmengine.config import Config

    from xmodal.engine.checkpoint import FORMAT, own_state, write
    from xmodal.registry import MODELS, build, load_catalog

    load_catalog()
    model = dict(type="transfer", encoder=encoder(args.size), head=head(), reader=dict(type="time_mean"))
    sampling = dict(type="uniform")
    data = dict(type="video", annotation="", num_frames=args.frames, sampling=sampling, test_mode=True)
    cfg = Config(dict(model=model, test_dataloader=dict(batch_size=args.batch, dataset=data)))
    set_defaults(cfg)
    path = folder() / "probe.pth"
    write(path, {"state_dict": own_state(build(cfg.model, MODELS)), "meta": {"format": FORMAT, "encoder": None}})
    return Predictor(cfg, path)


def predict(args: Any, films: int = 12) -> list[dict[str, Any]]:
    """Clips a second of films of 10 s, by threads that read ahead; medians of alternating rounds."""
    model = predictor(args)
    files = [str(write_video(folder() / f"p{i}.mp4", 10, 250, seed=i)) for i in range(films)]
    times: dict[int, list[float]] = {0: [], 1: [], 2: []}
    list(model.stream(files[:2]))
    for _ in range(args.repeats):
        for readers, found in times.items():
            model.readers = readers
            start = time.perf_counter()
            rows = list(model.stream(files))
            found.append(time.perf_counter() - start)
            assert not any("error" in row for row in rows)
    start = time.perf_counter()
    for _ in model.read(files):
        pass
    reading = time.perf_counter() - start
    names = {0: "read, then compute", 1: "one thread reads ahead", 2: "two threads read ahead"}
    measured = [{"way": names[k], "clips/s": films / statistics.median(v)} for k, v in times.items()]
    return [*measured, {"way": "reading alone, two threads", "clips/s": films / reading}]
