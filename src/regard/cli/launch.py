"""Launcher of the ranks of `regard train --devices N`: ends all of them when one ends.

Every child is the same command with a rank in its environment, as torchrun sets it. If a rank dies,
the others wait for its gradients forever; so this process, which does not train, watches them. If
the launcher itself dies, the standard input of its children ends, and they end, too.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regard.cli.output import complain
from regard.errors import ConfigError
from regard.util.atomic import recovered
from regard.util.child_python import python_command, python_environment

LOST = 75
"""Exit status of a rank that ended because it lost the others; it prints no error itself."""
_LAUNCHED = "REGARD_LAUNCHED"
_POLL_SECONDS = 0.1
_GRACE = 3.0  # seconds that ranks have to end by themselves, each with its own error
_LINES_KEPT = 60  # of the standard error of each rank other than 0


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen[str]
    written: deque[str]
    reader: threading.Thread | None


def launch(arguments: Sequence[str], devices: int, nodes: int, folder: Path) -> int:
    """Run `regard ARGUMENTS` in every rank of this machine and return the exit status.

    Args:
        arguments: arguments of the command.
        devices: number of ranks on this machine.
        nodes: number of machines; with more than one, MASTER_ADDR and NODE_RANK must be set.
        folder: folder of the run.

    Raises:
        ConfigError: the environment lacks the address where the machines meet.
    """
    places = _places(os.environ, devices, nodes)
    ranks = [_start(arguments, place) for place in places]
    try:
        while not _over(ranks):
            time.sleep(_POLL_SECONDS)
        return _status(ranks, devices, nodes, folder)
    except KeyboardInterrupt:
        _wait(ranks)  # a terminal interrupts them, too, and they save their encoded annotations
        complain(f"stopped. {how_to_resume(folder, devices, nodes)}")
        return 130
    finally:
        _end(ranks)


def how_to_resume(folder: Path | None, devices: int = 1, nodes: int = 1) -> str:
    """Return a sentence that says how to resume a run that ended early."""
    if folder is None or not recovered(folder / "last").is_dir():
        return (
            "The same command starts it again; encoded annotations are kept, except up to half a "
            "minute's work of a process that was killed."
        )
    more = f" --devices {devices}" if devices * nodes > 1 else ""
    more += f" --nodes {nodes}" if nodes > 1 else ""
    return f"Continue with: regard train --resume {folder}{more}"


def launched() -> bool:
    """Return whether `launch` started this process as a rank."""
    return _LAUNCHED in os.environ


def end_with_launcher() -> None:
    """Make this rank end when the process that started it ends for any reason."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _places(environment: Mapping[str, str], devices: int, nodes: int) -> list[dict[str, str]]:
    """Return the variables to add to the environment of each rank of this machine."""
    node, address, port = "0", "127.0.0.1", ""
    if nodes > 1:
        missing = [name for name in ("MASTER_ADDR", "NODE_RANK") if name not in environment]
        if missing:
            are = "are" if len(missing) > 1 else "is"
            raise ConfigError(
                f"--nodes is {nodes}, but {' and '.join(missing)} {are} not set. On every machine "
                "set MASTER_ADDR to the first one's address and NODE_RANK to 0, 1, ...; "
                "MASTER_PORT is 29500 unless set."
            )
        node, address = environment["NODE_RANK"], environment["MASTER_ADDR"]
        port = environment.get("MASTER_PORT", "29500")
        if not node.isdecimal() or int(node) >= nodes:
            raise ConfigError(
                f"NODE_RANK is {node!r}; with --nodes {nodes} it is 0 to {nodes - 1}."
            )
    threads = str(max(1, (os.cpu_count() or 1) // devices))
    shared = {
        "WORLD_SIZE": str(devices * nodes),
        "LOCAL_WORLD_SIZE": str(devices),
        "GROUP_RANK": node,
        "MASTER_ADDR": address,
        "MASTER_PORT": port or str(_free_port()),
        "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", threads),
        _LAUNCHED: "1",
    }
    first = int(node) * devices
    return [shared | {"RANK": str(first + k), "LOCAL_RANK": str(k)} for k in range(devices)]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start(arguments: Sequence[str], place: dict[str, str]) -> _Rank:
    leads = place["RANK"] == "0"
    process = subprocess.Popen(
        python_command("-m", "regard", *arguments),
        env=python_environment(os.environ | place),
        stdin=subprocess.PIPE,
        stdout=None if leads else subprocess.DEVNULL,
        stderr=None if leads else subprocess.PIPE,
        text=True,
        errors="replace",
    )
    written: deque[str] = deque(maxlen=_LINES_KEPT)
    reader = None
    if process.stderr is not None:
        reader = threading.Thread(target=written.extend, args=(process.stderr,), daemon=True)
        reader.start()
    return _Rank(int(place["RANK"]), process, written, reader)


def _over(ranks: list[_Rank]) -> bool:
    """Return whether all ranks have ended, or one has failed."""
    found = [rank.process.poll() for rank in ranks]
    return any(found) or None not in found


def _wait(ranks: list[_Rank]) -> None:
    """Wait briefly for the ranks to end by themselves."""
    latest = time.monotonic() + _GRACE
    while any(rank.process.poll() is None for rank in ranks) and time.monotonic() < latest:
        time.sleep(_POLL_SECONDS)


def _status(ranks: list[_Rank], devices: int, nodes: int, folder: Path) -> int:
    """Wait a little for the remaining ranks, print the error, and return the exit status."""
    _wait(ranks)
    failed = [rank for rank in ranks if rank.process.returncode]
    if not failed:
        return 0
    culprit = next((rank for rank in failed if rank.process.returncode != LOST), failed[0])
    status = culprit.process.returncode
    if status != LOST and culprit.reader is not None:
        culprit.reader.join(1.0)
        sys.stderr.writelines(culprit.written)
    if status == 2:  # wrong usage, which the rank has reported itself
        return 2
    if status == LOST:
        what = f"ranks {culprit.number} and up lost those of another machine"
    else:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"failed ({status})"
        what = f"rank {culprit.number} of {devices * nodes} (process {culprit.process.pid}) {how}"
    complain(f"{what}; all ranks here were stopped. {how_to_resume(folder, devices, nodes)}")
    return 1


def _end(ranks: list[_Rank]) -> None:
    """Kill all ranks that still run: files of a run are complete at every moment."""
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.kill()
    for rank in ranks:
        rank.process.wait()
        if rank.process.stdin is not None:
            rank.process.stdin.close()
