"""Settings come from the environment, are checked, and stand in the documentation."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from regard.errors import ConfigError, UnknownName
from regard.serve.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]


def test_the_environment_is_read_and_what_is_given_goes_before_it() -> None:
    environment = {
        "REGARD_WAITING": "32",
        "REGARD_MAX_BYTES": "1_000_000",
        "REGARD_WAIT": "0.5",
        "REGARD_API_KEYS": "a:00, b:11,",
        "REGARD_HOST": " ::1 ",
        "REGARD_KERNELS": "plain",  # another part's
        "HOME": "/",
    }
    found = read_settings(environment, {"waiting": 8, "rate": "2.5"})
    wanted = Settings(
        waiting=8, max_bytes=1_000_000, wait=0.5, api_keys=("a:00", "b:11"), host="::1", rate=2.5
    )
    assert found == wanted
    assert read_settings({}) == Settings()


@pytest.mark.parametrize(
    ("environment", "given", "said"),
    [
        ({"REGARD_WAITING": "many"}, {}, "REGARD_WAITING must be a whole number"),
        ({"REGARD_WAIT": "soon"}, {}, "REGARD_WAIT must be a number"),
        ({"REGARD_WAIT": "nan"}, {}, "wait is nan"),
        ({"REGARD_BODY_SECONDS": "inf"}, {}, "body_seconds is inf"),
        ({"REGARD_WAITING": "0"}, {}, "waiting is 0"),
        ({}, {"port": "70000"}, "port is 70000"),
        ({}, {"rate": "1", "burst": "0"}, "burst is 0"),
        ({}, {"decode_seconds": 0.0}, "decode_seconds is 0.0"),
    ],
)
def test_wrong_values_are_refused(
    environment: dict[str, str], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_settings(environment, given)


def test_a_misspelt_variable_is_refused_and_its_value_kept_secret() -> None:
    with pytest.raises(UnknownName, match="REGARD_API_KEYS") as error:
        read_settings({"REGARD_API_KEY": "secret"})
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigError) as wrong:
        read_settings({"REGARD_RATE": "secret"})
    assert "secret" not in str(wrong.value)
    with pytest.raises(UnknownName, match="setting 'wayting'"):
        read_settings({}, {"wayting": "1"})


def test_the_documentation_lists_every_setting_and_its_default() -> None:
    text = (ROOT / "docs" / "serve.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `REGARD_(\w+)` \| ([^|]*) \|", text, re.M))
    assert list(rows) == [field.name.upper() for field in fields(Settings)]
    for field in fields(Settings):
        text = rows[field.name.upper()].strip()
        assert read_settings({}, {field.name: text}) == Settings(), field.name


@pytest.mark.parametrize("name", ["regard.service", "Dockerfile"])
def test_what_deploys_it_names_settings_that_exist(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text("utf-8")
    found = dict(re.findall(r"\b(REGARD_\w+)=(\S+)", text))
    assert found
    read_settings(found)
