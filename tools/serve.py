"""Answer over HTTP for many tasks on one encoder: python tools/serve.py work_dirs/A work_dirs/B."""

import argparse
import sys
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description="Serve trained tasks: POST a file's content to /predict?name=clip.mp4, or drop it on the page. "
        "Tasks on one frozen encoder hold its weights once and share what it computes. Needs pip install "
        "'xmodal[serve]'."
    )
    p.add_argument("runs", nargs="+", metavar="RUN", help="checkpoints or work directories; NAME=RUN names a task")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on; only this machine by default (127.0.0.1)")
    p.add_argument("--port", type=int, default=8000, help="0 takes a free one (8000)")
    p.add_argument("--max-upload", default="200MB", help="largest file (200MB)")
    p.add_argument("--upload-seconds", type=float, default=60, help="for a file to arrive (60)")
    p.add_argument("--answer-seconds", type=float, default=60, help="from its arrival to the answer (60)")
    p.add_argument("--queue", type=int, default=64, help="requests at the same time; others get 429 (64)")
    p.add_argument("--readers", type=int, default=2, help="threads that read files (2)")
    p.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision (fp16 needs a GPU)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Serve; returns the exit status."""
    args = parser().parse_args(argv)
    from xmodal.engine.launch import run

    def job() -> None:
        try:
            import uvicorn
        except ImportError as error:
            raise ValueError("serving needs starlette and uvicorn: pip install 'xmodal[serve]'") from error
        from xmodal.engine.dry_run import parse_size
        from xmodal.use.server import Limits, make_app
        from xmodal.use.service import Service

        limits = Limits(
            int(parse_size(args.max_upload, "--max-upload")), args.upload_seconds, args.answer_seconds, args.queue
        )
        service = Service(args.runs, args.amp, args.readers)
        shared = f"; {service.saved / 2**20:.1f} MB of weights are shared" if service.saved else ""
        print(f"{len(service.tasks)} tasks: {', '.join(service.tasks)}{shared}", flush=True)
        config = uvicorn.Config(make_app(service, limits), log_level="warning", timeout_keep_alive=10)
        try:
            listen(config, args.host, args.port)
        finally:
            service.close()

    return run(job)


def listen(config: Any, host: str, port: int) -> None:
    """Bind, say where, and serve until interrupted."""
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(2048)
        print(f"http://{host}:{server.getsockname()[1]}/", flush=True)
        uvicorn.Server(config).run(sockets=[server])


if __name__ == "__main__":
    sys.exit(main())
