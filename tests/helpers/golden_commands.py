"""The golden record's commands: what they write, what they print, what they say of themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner

import regard
from regard.cli.main import app
from tests.helpers import digests
from tests.helpers.golden_captions import CLIP, PHOTOGRAPHS, SCAN, write_media

_PACKAGE = Path(regard.__file__).parent
_SAID = {
    "astronaut.jpg": ("an astronaut smiles at the camera", "a woman in an orange suit"),
    "cat.jpg": ("a cat looks up", "a brown cat sits on a bed"),
    "china.jpg": ("a palace under a blue sky", "people stand before a temple"),
    "dog.jpg": ("a brown dog lies on the grass", "a dog looks at the camera"),
    "friends.jpg": ("two dogs look out of a window", "two dogs sit at a window"),
    "moonwalk.jpg": ("a man walks on the moon", "an astronaut in a white suit stands"),
}
_EXPLAINED: dict[str, tuple[str, ...]] = {
    "photograph": ("dog.jpg", "--grids"),
    "raw cells": ("cat.jpg", "--no-smooth", "--animation", "gif"),
    "hard": ("dog.jpg", "--model", "flickr8k-hard", "--context", "argmax", "--beam", "1"),
    "two models": ("china.jpg", "--compare", "flickr8k-hard"),
    "scan": (SCAN, "--grids"),
    "clip": (CLIP, "--grids"),
    "clip, two models": (CLIP, "--compare", "flickr8k-hard", "--no-occlusion"),
}
_ROUTES = {"openapi": "/openapi.json", "models": "/v1/models", "health": "/healthz"}


def run(*arguments: str) -> dict[str, Any]:
    """Run a command; return its status and all that it printed, without times and folders."""
    result = CliRunner().invoke(app, arguments)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        return {"error": f"{type(error).__name__}: {error}"}
    text = digests.timeless(result.output, Path.cwd(), _PACKAGE)
    # Tables are padded to the length of the folders that were named in them.
    return {"status": result.exit_code, "output": "\n".join(map(str.rstrip, text.split("\n")))}


def explain(folder: Path) -> dict[str, Any]:
    """Return digests of all that explains: drawings, pages, audit, faithfulness, bulk rows."""
    write_media(folder)
    _write_captions(folder)
    found: dict[str, Any] = {}
    for name, arguments in _EXPLAINED.items():
        out = folder / f"explain {name}"
        found[name] = run("explain", *arguments, "--out", str(out))
        found[name]["files"] = digests.of_folder(out, folder)
    data = ("--annotations", "captions.csv")
    for name, arguments in {
        "drawn captions": ("caption", "dog.jpg", "friends.jpg", "--explain", "drawn"),
        "JSON lines": ("caption", *PHOTOGRAPHS, SCAN, CLIP, "--json", "--n-best", "2"),
        "unsure": ("caption", *PHOTOGRAPHS, "--unsure", "0.5", "--beam", "1"),
        "evaluate": ("evaluate", *data, "--json", "scores.json"),
        "audit": ("audit", *data, "--against", "flickr8k-hard", "--out", "audit"),
        "faithfulness": ("faithfulness", *data, "--probed", "1", "--json", "faithful.json"),
        "data check": ("data", "check", "captions.csv"),
        "bulk": ("bulk", "photographs", "rows", "--engine", "local", "--format", "jsonl",
                 "--traces", "--json"),
        "models": ("models",),
    }.items():  # fmt: skip
        found[name] = run(*arguments)
    for name in ("drawn", "audit"):
        found[f"{name}, files"] = digests.of_folder(folder / name, folder)
    found["rows"] = digests.of_folder(folder / "rows", folder)
    found["faithfulness, numbers"] = json.loads((folder / "faithful.json").read_text("utf-8"))
    return found


def _write_captions(folder: Path) -> None:
    """Write a data set of the photographs, and a folder of them alone."""
    rows = [f"{name},{text},val" for name, texts in _SAID.items() for text in texts]
    (folder / "captions.csv").write_text("\n".join(["file,caption,split", *rows]) + "\n", "utf-8")
    (folder / "photographs").mkdir()
    for name in PHOTOGRAPHS:
        (folder / "photographs" / name).write_bytes((folder / name).read_bytes())


def interfaces(folder: Path) -> dict[str, Any]:
    """Return the help of every command and the service's description of itself."""
    help_of: dict[str, str] = {}
    _help(typer.main.get_command(app), (), help_of)
    return {"help": help_of, "service": _service(folder)}


def _help(command: Any, names: tuple[str, ...], found: dict[str, str]) -> None:
    result = CliRunner().invoke(app, [*names, "--help"])
    found[" ".join(("regard", *names))] = result.output
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        _help(inner, (*names, name), found)


def _service(folder: Path) -> dict[str, Any]:
    """Start the service and return its OpenAPI description, its models and its page."""
    arguments = [sys.executable, "-m", "regard", "serve", "--port", "0"]
    with (folder / "log").open("w+") as log:
        service = subprocess.Popen(arguments, stderr=log, stdout=log, cwd=folder)
        try:
            address = _address(service, folder / "log")
            described = {name: json.loads(_get(address + path)) for name, path in _ROUTES.items()}
            return described | {"page": digests.of_bytes(_get(address + "/"))}
        finally:
            service.terminate()
            service.wait(30)


def _address(service: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the service listens; return where."""
    for _ in range(600):
        if match := re.search(r"http://[\d.]+:\d+", log.read_text("utf-8")):
            return match.group()
        if service.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the service does not listen: {log.read_text('utf-8')}")


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()
