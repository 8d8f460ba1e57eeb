"""Items that do everything that a child must outlive; in a module, so that children find them."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.fuzz.children import SECRET, Fault


def makes_trouble(own: Path, seed: int) -> Callable[[int], str]:
    kept: list[bytearray] = []

    def write_inside() -> str:
        (own / "file").write_text("mine")
        return "wrote"

    def write_outside() -> str:
        (own.parent / "elsewhere").write_text("not mine")
        return ""

    def write_home() -> str:
        os.makedirs(Path.home() / "made")
        return ""

    def read_secret() -> str:
        return (own.parents[1] / f"{SECRET}.txt").read_text()

    def connect() -> str:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), 0.1).close()
        return ""

    def crash() -> str:
        os.kill(os.getpid(), signal.SIGSEGV)
        return ""

    def hang() -> str:
        time.sleep(1000)
        return ""

    def fault() -> str:
        raise Fault("something is wrong")

    def swell() -> str:
        kept.append(bytearray(os.urandom(2**20) * 64))
        return ""

    def explode() -> str:
        kept.append(bytearray(2**40))
        return ""

    def leave() -> str:
        raise SystemExit(0)

    acts = (write_inside, write_outside, write_home, read_secret, connect, crash, hang, fault,
            swell, explode, leave)  # fmt: skip

    def task(number: int) -> str:
        return acts[number]()

    return task


def begins_badly(own: Path, seed: int) -> Callable[[int], str]:
    raise RuntimeError("no model")
