"""Modules that lie in the current folder must not run in any process that is started there."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import ab, run, start
from regard.cli import launch, serve_command
from regard.serve import prometheus
from regard.serve.decoders import Decoders
from regard.serve.requests import Upload
from regard.serve.settings import Settings
from tests.helpers import toys

PLANTED = ("numpy", "PIL", "torch", "typer", "sitecustomize", "onnxruntime", "regard", "pickle")
ROOT = Path(__file__).parents[2]


@contextmanager
def planted(folder: Path, *left_out: str) -> Generator[None]:
    """Make a folder with traps the current one; raise if one of them ran."""
    mark = folder / "ran"
    for name in set(PLANTED) - set(left_out):
        code = f"open({str(mark)!r}, 'a').write({name!r} + ' ')\nraise ImportError({name!r})\n"
        (folder / f"{name}.py").write_text(code)
    searched = {"PYTHONPATH": f"{os.pathsep}.{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with chdir(folder), mock.patch.dict(os.environ, searched):
        yield
    assert not mark.exists(), f"{mark.read_text()}ran"


def decoders_of_the_service(folder: Path) -> None:
    """A decoding process."""
    with planted(folder):
        made = Decoders(1, 4 * 2**30)
        try:
            spec = toys.captioner().reader.spec
            media = asyncio.run(made.read(Upload("a.jpg", toys.jpeg()), spec, Settings()))
            assert media.pixels.size
        finally:
            made.close()


def secrets_of_the_environment(folder: Path) -> None:
    """A decoding process has no variable that may be a secret."""
    secrets = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "REGARD_API_KEYS", "MY_PASSWORD")
    with mock.patch.dict(os.environ, dict.fromkeys(secrets, "hush")):
        made = Decoders(1, 4 * 2**30)
        try:
            spec = toys.captioner().reader.spec
            asyncio.run(made.read(Upload("a.jpg", toys.jpeg()), spec, Settings()))
            (pid,) = made.processes()
            assert b"hush" not in Path(f"/proc/{pid}/environ").read_bytes()
        finally:
            made.close()


def ranks_of_a_training(folder: Path) -> None:
    """Both ranks of `regard train --devices 2`."""
    with planted(folder):
        for place in launch._places(os.environ, 2, 1):
            rank = launch._start(["--version"], place)
            assert rank.process.wait(60) == 0
            launch._end([rank])
            if rank.reader is not None and rank.process.stderr is not None:
                rank.reader.join()
                rank.process.stderr.close()


class _Supervisor:
    """Spawns one process, as that of uvicorn spawns its workers."""

    def __init__(self, config: Any, sockets: list[socket.socket]) -> None:
        self.processes: list[Any] = []

    def run(self) -> None:
        process = multiprocessing.get_context("spawn").Process(target=os.getpid)
        process.start()
        process.join(60)
        self.processes.append(process)


def workers_of_the_service(folder: Path) -> None:
    """The processes of `regard serve --workers 2`."""
    with (
        planted(folder),
        mock.patch("uvicorn.supervisors.Multiprocess", _Supervisor),
        mock.patch.object(prometheus, "log_json"),
        socket.socket() as listener,
    ):
        serve_command._run(Settings(workers=2), {}, listener)


def command_as_a_module(folder: Path) -> None:
    """`python -m regard`, for which Python itself searches the current folder first."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with planted(folder, "regard", "pickle"):
        command = [sys.executable, "-m", "regard", "caption", str(ROOT / "examples" / "dog.jpg")]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def children_of_benchmarks(folder: Path) -> None:
    """The processes of benchmarks."""
    with planted(folder):
        start._run(["--version"])
        assert ab.python(ROOT, [sys.executable, "-c", "import regard, numpy; print(1)"]) == "1\n"
        with mock.patch.object(subprocess, "run") as ran:
            ran.return_value.returncode, ran.return_value.stdout = 0, "{}"
            run.measure(("start",))
        assert "-P" in ran.call_args.args[0]
        assert folder.as_posix() not in ran.call_args.kwargs["env"]["PYTHONPATH"]


def workers_of_ray(folder: Path) -> None:
    """Workers of a local Ray cluster: those that caption rows."""
    source = folder / "in"
    source.mkdir()
    (source / "a.jpg").write_bytes(toys.jpeg())
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    arguments = ["--engine", "ray", "--address", "local", "--workers", "1", "--beam", "1"]
    with planted(folder, "regard", "pickle"):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "regard", "bulk", "in", "out", *arguments],
            env=environment, capture_output=True, check=False, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


CASES = [
    decoders_of_the_service,
    secrets_of_the_environment,
    ranks_of_a_training,
    workers_of_the_service,
    command_as_a_module,
    children_of_benchmarks,
    workers_of_ray,
]
