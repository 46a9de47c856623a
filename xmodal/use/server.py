"""HTTP for a service: JSON, a page to drop files on, health and metrics. Needs the extra `serve`."""

import asyncio
import contextlib
import resource
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.use.server_page import drop_page
from xmodal.use.service import Service


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Args:
        upload: bytes of a file.
        upload_seconds: for a file to arrive.
        answer_seconds: from its arrival to the answer.
        queue: requests that are answered at the same time; further ones are told to come again.
    """

    upload: int = 200 * 2**20
    upload_seconds: float = 60.0
    answer_seconds: float = 60.0
    queue: int = 64


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        reason: for the caller; names no path of the server.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Server:
    """The requests of a service.

    Args:
        service: answers files.
        limits: of a request.
        folder: of uploads; each lives as long as its request.
    """

    def __init__(self, service: Service, limits: Limits, folder: Path):
        self.service, self.limits, self.folder = service, limits, folder
        self.active, self.start = 0, time.time()
        self.statuses: Counter[int] = Counter()
        self.seconds = 0.0

    async def predict(self, request: Any) -> Any:
        """Answer one file, the body of the request: `POST /predict?name=clip.mp4&tasks=a,b`."""
        from starlette.responses import JSONResponse

        start = time.monotonic()
        try:
            if self.active >= self.limits.queue:
                raise RefusedError(429, f"{self.active} requests are being answered: come again in a second")
            self.active += 1
            try:
                status, content = 200, await self.answered(request)
            finally:
                self.active -= 1
        except RefusedError as error:
            status, content = error.status, {"error": error.reason}
        self.statuses[status] += 1
        self.seconds += time.monotonic() - start
        headers = {"Retry-After": "1"} if status == 429 else {}
        return JSONResponse(content, status, headers)

    async def answered(self, request: Any) -> dict[str, Any]:
        """Return the answers of the tasks.

        Raises:
            RefusedError: a request or a file that is not answered, and why.
        """
        name = request.query_params.get("name", "")
        tasks = [word for word in request.query_params.get("tasks", "").split(",") if word] or None
        ending = Path(name).suffix.lower()
        try:
            self.service.groups_for(ending, tasks)
        except ValueError as error:
            known = "no task" not in str(error)
            hint = "" if name else ": give the file's name, as in /predict?name=clip.mp4"
            raise RefusedError(415 if known else 404, f"{error}{hint}") from None
        path = self.folder / f"{secrets.token_hex(12)}{ending}"
        try:
            await self.receive(request, path)
            futures = [asyncio.wrap_future(future) for future in self.service.predict(path, tasks)]
            try:
                parts = await asyncio.wait_for(asyncio.gather(*futures), self.limits.answer_seconds)
            except asyncio.TimeoutError:
                seconds = f"{self.limits.answer_seconds:g}"
                raise RefusedError(503, f"no answer within {seconds} s: come again, or send less") from None
        finally:
            path.unlink(missing_ok=True)
        rows = {task: cleaned(row, path, name) for part in parts for task, row in part.items()}
        if all("error" in row for row in rows.values()):
            raise RefusedError(422, next(iter(rows.values()))["error"])
        return {"file": name, "tasks": rows}

    async def receive(self, request: Any, path: Path) -> None:
        """Write the body of a request to a file.

        Raises:
            RefusedError: it is empty, too large, or too slow.
        """
        from starlette.requests import ClientDisconnect

        limit = self.limits.upload
        too_large = RefusedError(413, f"a file may have {limit} bytes")
        with contextlib.suppress(ValueError):
            if int(request.headers.get("content-length", 0)) > limit:
                raise too_large
        size = 0

        async def copy() -> None:
            nonlocal size
            with open(path, "wb") as file:
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise too_large
                    file.write(part)

        try:
            await asyncio.wait_for(copy(), self.limits.upload_seconds)
        except ClientDisconnect:
            raise RefusedError(400, "the file did not arrive") from None
        except asyncio.TimeoutError:
            raise RefusedError(408, f"the file did not arrive within {self.limits.upload_seconds:g} s") from None
        if not size:
            raise RefusedError(400, "the request has no body: send the file's content")

    def about(self) -> list[dict[str, Any]]:
        """Return what is known of each task."""
        rows = []
        for name, task in self.service.tasks.items():
            more = {"classes": task.model.classes, "formats": [".pth", *task.formats]}
            rows.append({"name": name, "kind": task.model.kind, **more})
        return rows

    def metrics(self) -> str:
        """Return counters in Prometheus' text format."""
        counts = self.service.counts
        lines = [f'xmodal_requests_total{{status="{k}"}} {v}' for k, v in sorted(self.statuses.items())]
        values = {
            "requests_active": self.active,
            "request_seconds_total": round(self.seconds, 6),
            "files_total": counts["files"],
            "bad_files_total": counts["bad_files"],
            "batches_total": counts["batches"],
            "files_computed_total": counts["computed"],
            "compute_seconds_total": counts["microseconds"] / 1e6,
            "waiting": self.service.waiting.qsize(),
            "shared_weight_bytes": self.service.saved,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "up_seconds": round(time.time() - self.start, 1),
        }
        return "\n".join([*lines, *(f"xmodal_{key} {value}" for key, value in values.items())]) + "\n"


def cleaned(row: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    """Return a row whose reason names the file as the caller does, and no path of the server."""
    if "error" not in row:
        return row
    said = row["error"].replace(str(path), name).replace(path.name, name)
    return {"error": said.replace(f"{path.parent}/", "")}


def make_app(service: Service, limits: Limits) -> Any:
    """Return the ASGI application."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Route

    folder = tempfile.TemporaryDirectory(prefix="xmodal-serve-")
    server = Server(service, limits, Path(folder.name))

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            folder.cleanup()

    async def page(request: Any) -> Any:
        return HTMLResponse(drop_page(server.about()))

    async def tasks(request: Any) -> Any:
        return JSONResponse(server.about())

    async def health(request: Any) -> Any:
        alive = service.thread.is_alive()
        return JSONResponse(
            {"status": "ok" if alive else "stopped", "tasks": list(service.tasks)}, 200 if alive else 503
        )

    async def metrics(request: Any) -> Any:
        return PlainTextResponse(server.metrics())

    async def broken(request: Any, error: Exception) -> Any:
        return JSONResponse({"error": "the server has failed"}, 500)

    routes = [Route("/", page), Route("/tasks", tasks), Route("/health", health), Route("/metrics", metrics),
              Route("/predict", server.predict, methods=["POST", "PUT"])]  # fmt: skip
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={Exception: broken})
    app.state.server = server
    return app
