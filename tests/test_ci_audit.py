"""What `make audit` makes of answers: findings fail, a service that is silent does not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

PLACE = Path(__file__).parents[1] / ".ci" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    found = importlib.util.spec_from_file_location("audit", PLACE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def answer(*dependencies: dict[str, object]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


WHOLE = {"name": "numpy", "version": "2.3", "vulns": []}
FAULTY = {
    "name": "pillow",
    "version": "9.0",
    "vulns": [{"id": "CVE-1", "fix_versions": ["9.1"], "aliases": [], "description": "x"}],
}
UNKNOWN = {"name": "torch", "skip_reason": "not found"}


def test_a_finding_fails_and_names_what_mends_it(audit: ModuleType) -> None:
    text, status = audit.judged(answer(WHOLE, FAULTY, UNKNOWN))
    assert status == 1
    assert "pillow 9.0: CVE-1, mended in 9.1" in text
    assert "2 of 3 packages audited" in text
    assert "torch" in text


def test_no_finding_passes(audit: ModuleType) -> None:
    assert audit.judged(answer(WHOLE))[1] == 0


@pytest.mark.parametrize("text", ["", "no JSON", "[]", answer(UNKNOWN), answer()])
def test_a_service_that_is_silent_is_no_finding_and_no_pass(audit: ModuleType, text: str) -> None:
    assert audit.judged(text)[1] is None


def test_a_second_service_is_asked_and_silence_is_said(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"pypi": answer(UNKNOWN), "osv": answer(FAULTY)}
    monkeypatch.setattr(audit, "_asked", answers.__getitem__)
    assert audit.packages() == 1
    monkeypatch.setattr(audit, "_asked", lambda service: "")
    capsys.readouterr()
    assert audit.packages() == 0
    assert "NOT AUDITED" in capsys.readouterr().out


def test_a_list_of_components_is_looked_at(audit: ModuleType) -> None:
    names = ("array_api_compat", "matplotlib", "numpy", "onnxruntime", "pillow", "rich",
             "safetensors", "typer")  # fmt: skip
    listed = {
        "bomFormat": "CycloneDX",
        "metadata": {"component": {"name": "regard"}},
        "components": [{"name": name, "version": "1"} for name in names],
    }
    assert audit.faults_of(listed) == []
    del listed["components"][2]
    assert audit.faults_of(listed) == ["numpy is not listed"]
    assert len(audit.faults_of({"components": [], "metadata": {}})) == 10
