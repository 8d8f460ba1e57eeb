"""`regard serve`."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli.output import complain
from regard.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from regard.captioner import Captioner

_CONNECTIONS = 100  # beyond which the server turns requests away unread


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Folder, shipped model or hub id; may be repeated; else all shipped."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's are public.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Serve a web page and a REST API.

    The page is at the address that is printed, the API below its /v1, the API's description at
    its /openapi.json. Ctrl-C ends it.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve", "`regard serve`") from error
    from regard.serve import create_app

    app = create_app(_captioners(model, device))
    listener = _listen(host, port)
    name, number = listener.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    complain(f"serving on http://{shown}:{number} (Ctrl-C ends it)")
    if not ipaddress.ip_address(name.split("%")[0]).is_loopback:
        complain(f"anybody who reaches {shown} can use it: there is no password.")
    config = uvicorn.Config(app, log_level="warning", limit_concurrency=_CONNECTIONS)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # how uvicorn hands on the Ctrl-C that ended it
        return


def _captioners(names: list[str] | None, device: str) -> dict[str, Captioner]:
    """Load the models; two of one name go by what they were asked for."""
    from regard import load
    from regard.pretrained import DEFAULTS, shipped_models

    default = DEFAULTS["image"]
    asked = list(names or sorted(shipped_models(), key=lambda name: (name != default, name)))
    loaded = {name: load(name, device=device) for name in asked}
    said = [one.name for one in loaded.values()]
    return {
        one.name if said.count(one.name) == 1 else asked_for: one
        for asked_for, one in loaded.items()
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
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}. Give another --host or --port."
        ) from error
    return listener
