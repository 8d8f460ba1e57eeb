"""`regard serve`: it listens where it says, and ends well."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from regard.cli.main import app
from regard.cli.serve_command import load_captioners
from regard.errors import ConfigError, MissingExtra, RegardError
from regard.pretrained import DEFAULTS, shipped_models
from regard.serve import Settings
from tests.helpers import toys

SHIPPED = "flickr8k-soft"


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
    first, *later = [line["event"] for line in rest]
    # The page's line is written once it is sent, which may be after the signal came.
    assert (first, sorted(later)) == ("ready", ["draining", "request", "request"])


class Serving:
    """A service in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "regard", "serve", "--port", "0", "--model", SHIPPED]
        self.process = subprocess.Popen(
            [*command, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stderr is not None
        self.errors = self.process.stderr
        found = re.search(r"http://\S+:\d+", self.errors.readline())
        assert found
        self.url = found[0]
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def caption(self) -> httpx.Response:
        return self.client.post("/v1/caption", files={"files": ("a.jpg", toys.jpeg())})

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.errors.close()
        self.client.close()

    def wait_ready(self, workers: int = 1) -> None:
        for _ in range(workers):
            assert json.loads(self.errors.readline())["event"] == "ready"

    def told(self) -> list[dict[str, Any]]:
        """Return what it logged until it ended."""
        return [json.loads(line) for line in self.errors]


def test_sigterm_is_answered_with_no_when_it_is_asked_whether_it_is_ready() -> None:
    with Serving("--set", "drain_delay=3") as serving:
        serving.wait_ready()
        assert serving.client.get("/readyz").status_code == 200
        serving.process.send_signal(signal.SIGTERM)
        while serving.client.get("/readyz").status_code == 200:
            time.sleep(0.01)
        assert serving.client.get("/healthz").status_code == 200
        told = serving.told()
        assert serving.process.wait() == 0
    (drain,) = [line for line in told if line["event"] == "draining"]
    assert drain["signal"] == "SIGTERM"
    with pytest.raises(httpx.ConnectError):
        httpx.get(serving.url, trust_env=False)


def test_several_workers_share_an_address_and_count_together() -> None:
    wanted = 'regard_requests_total{path="/v1/models",status="200"} 6.0'
    with Serving("--workers", "2", "--set", "decoders=1") as serving:
        serving.wait_ready(2)
        for _ in range(6):
            # Each connection goes to one of them, and none knows to which.
            assert httpx.get(f"{serving.url}/v1/models", trust_env=False).is_success
        while wanted not in serving.client.get("/metrics").text.splitlines():
            time.sleep(0.05)  # a request is counted once it is answered
        assert serving.caption().status_code == 200
        serving.process.send_signal(signal.SIGTERM)
        told = serving.told()
        assert serving.process.wait() == 0
    assert [line["event"] for line in told].count("draining") == 2


@pytest.mark.parametrize(
    ("variables", "arguments", "said"),
    [
        ({"REGARD_WAITING": "-3"}, [], "waiting is -3"),
        ({"REGARD_API_KEY": "x"}, [], "REGARD_API_KEYS"),
        ({"REGARD_API_KEYS": "x"}, [], "API key 1"),
        ({"REGARD_API_KEY_FILE": "/nowhere"}, [], "/nowhere cannot be read"),
        ({"REGARD_WAITING": "3"}, ["--set", "waiting=none"], "waiting must be"),
        ({}, ["--set", "waiting"], "has no '='"),
        ({"REGARD_MODELS": "nothing-here"}, [], "nothing-here"),
    ],
)
def test_wrong_settings_are_one_line_and_nothing_is_served(
    variables: dict[str, str], arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
    assert isinstance(found.exception, RegardError)
    assert said in str(found.exception)


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
