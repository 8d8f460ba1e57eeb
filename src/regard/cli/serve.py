"""`regard serve`."""

from __future__ import annotations

import ipaddress
import os
import socket
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from regard.cli.output import complain
from regard.errors import ConfigError, MissingExtra

_BACKLOG = 2048


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Folder, shipped model or hub id; may be repeated; else all shipped."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on, else 127.0.0.1; any but this machine is public."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Else 8000; 0 takes a free one.", min=0, max=65535)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu (else), cuda, ...")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes, each with the models; else 1.", min=1)
    ] = None,
    api_key_file: Annotated[
        str | None, typer.Option(help="File of `name:sha256 of the key`; else anybody may come.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="name=value of any setting.")
    ] = None,
) -> None:
    """Serve a web page and a REST API.

    The page is at the address that is printed, the API below its /v1, the API's description at
    its /openapi.json. Settings come from variables REGARD_NAME; what is given here goes before
    them. SIGTERM or Ctrl-C ends it, once what is under way is answered.
    """
    if find_spec("uvicorn") is None:  # said before models are loaded
        raise MissingExtra("uvicorn", "serve", "`regard serve`")
    from regard.cli.serving import load_captioners, run
    from regard.serve.auth import ApiKeys
    from regard.serve.settings import read_settings

    options = {
        "models": tuple(model) if model else None,
        "host": host,
        "port": port,
        "device": device,
        "workers": workers,
        "api_key_file": api_key_file,
    }
    given = {name: value for name, value in options.items() if value is not None}
    chosen = read_settings(os.environ, _pairs(settings or []) | given)
    keys = ApiKeys.read(chosen.api_keys, chosen.api_key_file)  # before anything is loaded
    captioners = load_captioners(chosen)
    if chosen.workers > 1:
        captioners.clear()  # they can be loaded, which the workers do themselves
    listener = _listen(chosen.host, chosen.port)
    name, number = listener.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    complain(f"serving on http://{shown}:{number} (Ctrl-C ends it)")
    if not keys and not ipaddress.ip_address(name.split("%")[0]).is_loopback:
        complain(f"anybody who reaches {shown} can use it: there are no API keys.")
    try:
        run(chosen, captioners, listener)
    except KeyboardInterrupt:  # how uvicorn hands on the Ctrl-C that ended it
        return


def _pairs(settings: list[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"the setting {name!r} has no '='; write name=value.")
        pairs[name.strip()] = value
    return pairs


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)  # who comes before the models are ready waits
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}. Give another --host or --port."
        ) from error
    return listener
