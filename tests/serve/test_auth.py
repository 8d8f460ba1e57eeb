"""ApiKeys open, others do not; buckets fill with time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from regard.errors import ConfigError
from regard.serve.auth import ApiKeys, RateLimiter


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def test_a_key_is_known_by_its_hash() -> None:
    keys = ApiKeys(
        ["# a comment", "", line("ann", "one"), line("bob", "two").upper().replace("BOB", "bob")]
    )
    assert keys
    assert keys.name_of("one") == "ann"
    assert keys.name_of("two") == "bob"
    for wrong in ("", "One", "one ", hashlib.sha256(b"one").hexdigest(), "\udcff", "é"):
        assert keys.name_of(wrong) is None
    assert not ApiKeys([])
    assert ApiKeys([]).name_of("") is None


def test_every_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr("regard.serve.auth.hmac.compare_digest", compare)
    assert ApiKeys([line("a", "1"), line("b", "2"), line("c", "3")]).name_of("1") == "a"
    assert len(compared) == 3


@pytest.mark.parametrize(
    "wrong", ["secret", "secret:12", "a b:" + "0" * 64, "a:" + "g" * 64, ":" + "0" * 64]
)
def test_a_wrong_line_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(ConfigError, match="API key 2") as error:
        ApiKeys([line("ann", "one"), wrong])
    assert wrong not in str(error.value)
    with pytest.raises(ConfigError, match="twice"):
        ApiKeys([line("ann", "one"), line("ann", "two")])


def test_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line("ann", "one") + "\n# none\n")
    keys = ApiKeys.read([line("bob", "two")], str(file))
    assert (keys.name_of("one"), keys.name_of("two")) == ("ann", "bob")
    with pytest.raises(ConfigError, match="cannot be read"):
        ApiKeys.read([], str(tmp_path / "absent"))
    file.write_text("# none\n")
    with pytest.raises(ConfigError, match="holds no keys"):
        ApiKeys.read([line("bob", "two")], str(file))


def test_a_bucket_fills_with_time() -> None:
    now = 0.0
    buckets = RateLimiter(0.5, 2, lambda: now)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 2]
    assert buckets.take("b") == 0  # another's is full
    now = 1.0
    assert buckets.take("a") == 1  # half a token
    now = 2.0
    assert [buckets.take("a") for _ in range(2)] == [0, 2]
    now = 1000.0
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 2]
    assert [RateLimiter(0.0, 1).take("a") for _ in range(9)] == [0] * 9


def test_buckets_of_many_addresses_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.serve.auth._MAX_CLIENTS", 3)
    buckets = RateLimiter(1.0, 1, lambda: 0.0)
    for name in "abcd":
        assert buckets.take(name) == 0
    assert buckets.take("d") == 1
    assert buckets.take("a") == 0  # it was forgotten
