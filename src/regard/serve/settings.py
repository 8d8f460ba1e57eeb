"""Settings of a service: limits, timeouts, keys and addresses, from the environment or options."""

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from functools import cached_property
from typing import Any, get_type_hints

from regard.errors import ConfigError, UnknownName

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PREFIX = "REGARD_"
"""The prefix of a service's environment variables."""
_OTHERS = {"REGARD_KERNELS", "REGARD_AXE"}  # variables that other parts read
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_TIMES = ("request_seconds", "body_seconds", "header_seconds", "decode_seconds", "drain_seconds")
_COUNTS = (
    *("max_bytes", "max_pixels", "max_frames", "max_voxels", "max_files", "waiting"),
    *("waiting_bytes", "waiting_pixels", "batch_size", "decoders", "workers", "max_connections"),
)


@dataclass(frozen=True)
class Settings:
    """Limits of a service, its timeouts, its access control, and its address.

    Attributes:
        max_bytes: largest request; a larger one is rejected while it arrives.
        max_pixels: largest picture, or frame of a clip, refused by its header before it is
            decoded.
        max_frames: longest clip in frames, counted before any is decoded.
        max_voxels: largest scan, refused by its header.
        max_files: files in a request.
        waiting: files queued or in progress; more are refused with 429.
        waiting_bytes: bytes of requests that are read or in progress, likewise.
        waiting_pixels: decoded pixels (of a scan, three bytes of voxels), likewise. These two
            bound the memory.
        batch_size: pictures that go through the network together.
        wait: seconds for which a request waits for others to share its batch.
        request_seconds: from the last byte of a request's header to the end of its answer.
        body_seconds: for a request's body to arrive.
        header_seconds: for a request's header to arrive.
        decode_seconds: for one file to be decoded; then its process is ended.
        drain_seconds: for running requests to be answered after SIGTERM.
        drain_delay: seconds for which new requests are still accepted after SIGTERM, while
            /readyz answers 503.
        decoders: processes that decode files.
        decoder_memory: address space of each in bytes; 0: unlimited.
        api_keys: `name:sha256 of the key in hexadecimal`; with any, requests need a key.
        api_key_file: a file of such lines; "": none.
        rate: requests per second that a key, or without keys an address, may make in the long
            run; 0: unlimited. Each worker counts for itself.
        burst: requests that it may make at once.
        cors_origins: origins whose pages may use the service from a browser; "*": all.
        hosts: host names that the service answers to, without ports; "*": any. By default
            `regard serve` answers to localhost, 127.0.0.1 and [::1] where it listens on one of
            them, which keeps out pages whose name was made to lead here (DNS rebinding), and to
            any name where it listens elsewhere.
        proxies: addresses or networks (10.0.0.0/8) of proxies; X-Forwarded-For is believed of
            them alone.
        host: address to listen on.
        port: 0 takes a free one.
        workers: processes that each hold the models and answer requests.
        max_connections: connections of each worker; requests beyond them are refused unread.
        models: folders, shipped models or hub ids; none: all shipped ones.
        device: where models run: auto (a GPU where torch sees one, else the CPU), cpu, cuda,
            cuda:1 or mps. Workers share it.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_frames: int = 100_000
    max_voxels: int = 2**26
    max_files: int = 16
    waiting: int = 64
    waiting_bytes: int = 256 * 2**20
    waiting_pixels: int = 200_000_000
    batch_size: int = 16
    wait: float = 0.005
    request_seconds: float = 60.0
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    decode_seconds: float = 20.0
    drain_seconds: float = 30.0
    drain_delay: float = 0.0
    decoders: int = 2
    decoder_memory: int = 2 * 2**30
    api_keys: tuple[str, ...] = ()
    api_key_file: str = ""
    rate: float = 0.0
    burst: int = 20
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    max_connections: int = 512
    models: tuple[str, ...] = ()
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in _TIMES:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 seconds.")
        for name in ("wait", "drain_delay", "rate", "decoder_memory"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        if self.rate and self.burst < 1:
            raise ConfigError(f"burst is {self.burst}; with a rate it must be 1 or more.")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; it must lie between 0 and 65535.")
        self.proxy_networks  # noqa: B018  # raises if one is wrong

    def listening(self) -> "Settings":
        """Return the settings of a service that listens on `host`: see `hosts`."""
        if self.hosts or not _is_loopback(self.host):
            return self
        return replace(self, hosts=_LOOPBACK)

    @cached_property
    def proxy_networks(self) -> tuple[Network, ...]:
        """The networks of `proxies`.

        Raises:
            ConfigError: one is not an address or network.
        """
        try:
            return tuple(ipaddress.ip_network(one, strict=False) for one in self.proxies)
        except ValueError as error:
            raise ConfigError(
                f"proxies: {error}; an address or a network such as 10.0.0.0/8 was expected."
            ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_settings(
    environment: Mapping[str, str], given: Mapping[str, Any] | None = None
) -> Settings:
    """Return the settings of an environment, overridden by given ones.

    Args:
        environment: variables `REGARD_NAME` with a setting's name in capitals; items of a list
            are separated by commas.
        given: by name: values, or their text.

    Raises:
        ConfigError: a value has the wrong type, or is out of range.
        UnknownName: a setting is unknown: a misspelt variable could leave the service open.
    """
    known = {field.name: field for field in fields(Settings)}
    found: dict[str, Any] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in _OTHERS:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in known or variable != variable.upper():
            names = [PREFIX + one.upper() for one in known]
            raise UnknownName("environment variable", variable, names)
        found[name] = _value(known[name], variable, text)
    for name, value in (given or {}).items():
        if name not in known:
            raise UnknownName("setting", name, known)
        found[name] = _value(known[name], name, value) if isinstance(value, str) else value
    return Settings(**found)


def _value(field: Field[Any], source: str, text: str) -> Any:
    kind = get_type_hints(Settings)[field.name]
    if kind is str:
        return text.strip()
    if kind == tuple[str, ...]:
        return tuple(part for part in (one.strip() for one in text.split(",")) if part)
    try:
        return kind(text.strip().replace("_", ""))
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        # The message does not repeat the text: it may be a key in the wrong variable.
        raise ConfigError(f"{source} must be {expected}, such as {field.default}.") from error
