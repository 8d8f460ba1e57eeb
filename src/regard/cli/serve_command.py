"""`regard serve`: the service as one process, or as several that share an address.

Only these processes handle signals, log to standard error and set environment variables, which
library code does not do.
"""

from __future__ import annotations

import ipaddress
import math
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from regard.cli import options
from regard.cli.options import option
from regard.cli.output import complain
from regard.errors import ConfigError, MissingExtra, RegardError
from regard.util.child_python import python_environment

if TYPE_CHECKING:
    from regard.captioner import Captioner
    from regard.serve.settings import Settings

_BACKLOG = 2048
_FAILED = 3  # uvicorn does not restart a worker that exits with this status


def serve(
    model: Annotated[
        list[str] | None,
        option("Folder, shipped model or hub id; may be repeated; by default all shipped."),
    ] = None,
    host: Annotated[str | None, option("Address to listen on; by default 127.0.0.1.")] = None,
    port: Annotated[int | None, option("By default 8000; 0: a free one.", min=0, max=65535)] = None,
    device: Annotated[
        str | None, option("auto (default: a GPU where torch sees one), cpu, cuda, cuda:1 or mps.")
    ] = None,
    workers: Annotated[int | None, option("Processes; by default 1.", min=1)] = None,
    api_key_file: Annotated[
        str | None, option("File of `name:sha256 of the key`; by default no keys.")
    ] = None,
    settings: Annotated[list[str] | None, option("name=value of any setting.", "--set")] = None,
) -> None:
    """Serve a web page and a REST API.

    The page is at the printed address, the API below /v1, and its description at
    /openapi.json. Settings come from variables REGARD_NAME; options take precedence. SIGTERM
    or Ctrl-C ends the service once requests in progress are answered.
    """
    if find_spec("uvicorn") is None:  # checked before models are loaded
        raise MissingExtra("uvicorn", "serve", "`regard serve`")
    from regard.serve.auth import ApiKeys
    from regard.serve.settings import read_settings

    chosen = read_settings(
        os.environ,
        _pairs(settings or [])
        | options.given(
            models=tuple(model) if model else None, host=host, port=port, device=device,
            workers=workers, api_key_file=api_key_file,
        ),
    )  # fmt: skip
    chosen = chosen.listening()
    keys = ApiKeys.read(chosen.api_keys, chosen.api_key_file)  # before anything is loaded
    device = options.placed(chosen.device)
    if device != "cpu" and chosen.workers > 1:
        raise ConfigError(
            f"workers is {chosen.workers} and the device {device}: one process uses a GPU. Set "
            "workers to 1, and start a service for each GPU (--device cuda:1, another --port)."
        )
    captioners = load_captioners(replace(chosen, device=device))
    if chosen.workers > 1:
        captioners.clear()  # this was a check; the workers load their own
    listener = _listen(chosen.host, chosen.port)
    name, number = listener.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    complain(f"serving on http://{shown}:{number} (Ctrl-C ends it)")
    if not keys and not ipaddress.ip_address(name.split("%")[0]).is_loopback:
        complain(f"anyone who can reach {shown} can use the service: there are no API keys.")
    try:
        _run(chosen, captioners, listener)
    except KeyboardInterrupt:  # uvicorn raises it again after a Ctrl-C
        return


def _pairs(settings: list[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"the setting {name!r} has no '='; write name=value.")
        pairs[name.strip()] = value
    return pairs


def load_captioners(settings: Settings) -> dict[str, Captioner]:
    """Load the models by name; models with the same name get the name given in the settings.

    Raises:
        CheckpointError: one cannot be loaded.
    """
    from regard import load
    from regard.pretrained import DEFAULTS, shipped_models

    default = DEFAULTS["image"]
    names = settings.models or sorted(shipped_models(), key=lambda name: (name != default, name))
    loaded = {name: load(name, device=settings.device) for name in names}
    own_names = [one.name for one in loaded.values()]
    return {
        one.name if own_names.count(one.name) == 1 else name: one for name, one in loaded.items()
    }


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)  # early clients wait until the models are ready
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}. Give another --host or --port."
        ) from error
    return listener


def _run(settings: Settings, captioners: Mapping[str, Captioner], listener: socket.socket) -> None:
    """Serve until a signal ends it; requests in progress are answered before.

    Args:
        settings: limits, keys, times, workers.
        captioners: by name; several workers load their own.
        listener: a bound socket.
    """
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from regard.serve.prometheus import MULTIPROC_DIR, log_json

    log_json(sys.stderr)
    if settings.workers == 1:
        make = partial(_application, lambda: captioners, settings)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # once it is drained
        uvicorn.Server(_uvicorn_config(make, settings)).run(sockets=[listener])
        return
    with tempfile.TemporaryDirectory(prefix="regard-counts-") as folder:
        # Workers are spawned: they must not search the current folder for modules.
        os.environ.update(python_environment(), **{MULTIPROC_DIR: folder})
        listener.set_inheritable(True)
        config = _uvicorn_config(partial(_worker, settings), settings)
        supervisor = Multiprocess(config, sockets=[listener])
        supervisor.run()
        if any(process.exitcode == _FAILED for process in supervisor.processes):
            sys.exit(1)


def _uvicorn_config(make: Callable[[], Any], settings: Settings) -> Any:
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
        proxy_headers=False,  # the middleware reads them, of `proxies` alone
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=math.ceil(settings.header_seconds),
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )
    # For the protocol, and for uvicorn, which takes a worker that is busy for 5 s for a hung one.
    vars(config)["header_seconds"] = settings.header_seconds
    vars(config)["body_seconds"] = settings.body_seconds
    vars(config)["timeout_worker_healthcheck"] = settings.request_seconds
    return config


def _worker(settings: Settings) -> Any:
    """Make the application in a worker's process; a worker that cannot is not restarted."""
    from regard.serve.prometheus import log_json

    log_json(sys.stderr)
    try:
        return _application(partial(load_captioners, settings), settings)
    except RegardError as error:
        complain(error)
        sys.exit(_FAILED)


def _application(load: Callable[[], Mapping[str, Captioner]], settings: Settings) -> Any:
    from regard.serve.app import create_app
    from regard.serve.prometheus import log_event

    app = create_app(load(), settings)
    service = app.state.service
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)  # uvicorn has set its handler by now
        if callable(before):
            signal.signal(number, _DrainHandler(service, settings.drain_delay, before))
    log_event("ready", models=len(service.models.describe()), keys=bool(service.keys))
    return app


class _DrainHandler:
    """Signal handler that makes the service not ready, waits, and then calls uvicorn's."""

    def __init__(self, service: Any, delay: float, then: Callable[..., Any]) -> None:
        self._service, self._delay, self._then = service, delay, then

    def __call__(self, number: int, frame: Any) -> None:
        from regard.serve.prometheus import log_event

        first, self._service.draining = not self._service.draining, True
        if first:
            log_event("draining", signal=signal.Signals(number).name)
        if first and self._delay:
            timer = threading.Timer(self._delay, self._then, (number, None))
            timer.daemon = True
            timer.start()
        else:
            self._then(number, frame)
