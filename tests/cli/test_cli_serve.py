"""`regard serve`: it listens where it says, and ends well."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import toys
from regard.cli.main import app
from regard.cli.serving import load_captioners
from regard.errors import ConfigError, MissingExtra
from regard.pretrained import DEFAULTS, shipped_models
from regard.serve import Settings


def test_it_serves_on_this_machine_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    toys.captioner().save(tmp_path / "toy")
    command = [sys.executable, "-m", "regard", "serve", "--port", "0", "--model", tmp_path / "toy"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        answer = httpx.post(
            f"{found[0]}/v1/caption", files={"files": ("a.jpg", toys.jpeg())}, timeout=60
        )
        assert answer.json()["captions"][0]["file"] == "a.jpg"
        assert "regard" in httpx.get(found[0], timeout=60).text
        process.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in process.stderr]
    assert process.returncode == 0
    assert [line["event"] for line in rest] == ["ready", "request", "request", "draining"]


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    toys.captioner().save(tmp_path / "toy")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        arguments = ["serve", "--port", str(port), "--model", str(tmp_path / "toy")]
        found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, ConfigError)
    assert f"port {port}" in str(found.exception)
    found = CliRunner().invoke(app, [*arguments, "--host", "no such host"])
    assert isinstance(found.exception, ConfigError)


def test_without_its_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = CliRunner().invoke(app, ["serve"])
    assert isinstance(found.exception, MissingExtra)
    assert "regard[serve]" in str(found.exception)


def test_all_shipped_models_are_offered_and_names_stay_apart(tmp_path: Path) -> None:
    offered = load_captioners(Settings())
    assert next(iter(offered)) == DEFAULTS["image"]
    assert len(offered) == len(shipped_models())
    for name in ("a", "b"):
        toys.captioner().save(tmp_path / name)
    twins = (str(tmp_path / "a"), str(tmp_path / "b"))
    assert tuple(load_captioners(Settings(models=twins))) == twins
