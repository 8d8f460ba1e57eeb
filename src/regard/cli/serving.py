"""The service as a process of its own, or as several that share an address.

What is here is for such processes alone: it takes signals, logs to standard error and sets
variables of the environment, which library code leaves be.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from regard.errors import MissingExtra, RegardError
from regard.serve.app import create_app
from regard.serve.prometheus import MULTIPROC_DIR, log_event, log_json
from regard.serve.settings import Settings

if TYPE_CHECKING:
    from socket import socket

    from regard.captioner import Captioner

_FAILED = 3  # uvicorn starts a worker that ends with it no second time


def load_captioners(settings: Settings) -> dict[str, Captioner]:
    """Load the models; two of one name go by what they were asked for.

    Raises:
        CheckpointError: one cannot be loaded.
    """
    from regard import load
    from regard.pretrained import DEFAULTS, shipped_models

    default = DEFAULTS["image"]
    names = settings.models or sorted(shipped_models(), key=lambda name: (name != default, name))
    loaded = {name: load(name, device=settings.device) for name in names}
    said = [one.name for one in loaded.values()]
    return {
        one.name if said.count(one.name) == 1 else asked_for: one
        for asked_for, one in loaded.items()
    }


def run(settings: Settings, captioners: Mapping[str, Captioner], listener: socket) -> None:
    """Serve until a signal ends it, and answer what is under way before.

    Args:
        settings: limits, keys, times, workers.
        captioners: by name; several workers load theirs themselves.
        listener: where requests come in; bound.

    Raises:
        MissingExtra: uvicorn is not installed.
    """
    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve", "`regard serve`") from error
    log_json(sys.stderr)
    if settings.workers == 1:
        make = partial(_application, lambda: captioners, settings)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # once it is drained
        uvicorn.Server(_config(make, settings)).run(sockets=[listener])
        return
    with tempfile.TemporaryDirectory(prefix="regard-counts-") as folder:
        os.environ[MULTIPROC_DIR] = folder
        listener.set_inheritable(True)
        config = _config(partial(_worker, settings), settings)
        supervisor = Multiprocess(config, sockets=[listener])
        supervisor.run()
        if any(process.exitcode == _FAILED for process in supervisor.processes):
            sys.exit(1)


def _config(make: Callable[[], Any], settings: Settings) -> Any:
    import uvicorn

    config = uvicorn.Config(
        make,
        factory=True,
        workers=settings.workers,
        http="regard.serve.timeouts:TimeoutProtocol",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=math.ceil(settings.header_seconds),
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )
    # For TimeoutProtocol, and for uvicorn, which takes a busy worker for a hung one after 5 s.
    vars(config)["header_seconds"] = settings.header_seconds
    vars(config)["body_seconds"] = settings.body_seconds
    vars(config)["timeout_worker_healthcheck"] = settings.request_seconds
    return config


def _worker(settings: Settings) -> Any:
    """Make the application in a worker's process; one that cannot is not started again."""
    log_json(sys.stderr)
    try:
        return _application(partial(load_captioners, settings), settings)
    except RegardError as error:
        sys.stderr.write(f"regard: {' '.join(str(error).split())}\n")
        sys.exit(_FAILED)


def _application(load: Callable[[], Mapping[str, Captioner]], settings: Settings) -> Any:
    app = create_app(load(), settings)
    service = app.state.service
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)  # uvicorn's, which is set by now
        if callable(before):
            signal.signal(number, _Draining(service, settings.drain_delay, before))
    log_event("ready", models=len(service.models.describe()), keys=bool(service.keys))
    return app


class _Draining:
    """Takes a signal: no is the answer to whether it is ready, then it ends."""

    def __init__(self, service: Any, delay: float, then: Callable[..., Any]) -> None:
        self._service, self._delay, self._then = service, delay, then

    def __call__(self, number: int, frame: Any) -> None:
        first, self._service.draining = not self._service.draining, True
        if first:
            log_event("draining", signal=signal.Signals(number).name)
        if first and self._delay:
            timer = threading.Timer(self._delay, self._then, (number, None))
            timer.daemon = True
            timer.start()
        else:
            self._then(number, frame)


__all__ = ["load_captioners", "run"]
