"""`regard audit`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regard.cli.main import app
from regard.errors import ConfigError
from tests.helpers import toys
from tests.helpers.toy_models import captioner


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toys.captioner().save(folder / "soft")
    captioner(attention="hard").save(folder / "hard")
    return folder


def run(*arguments: object):
    return CliRunner().invoke(app, ["audit", *(str(a) for a in arguments)])


def test_a_split_gets_a_report_a_table_and_all_numbers(models: Path, tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path)
    out = tmp_path / "new" / "out"
    found = run("--annotations", captions, "--images", images, "--model", models / "soft",
                "--out", out, "--beam", 1)  # fmt: skip
    assert found.exit_code == 0, found.output
    assert sorted(p.name for p in out.iterdir()) == ["audit.csv", "audit.html", "audit.json"]
    record = json.loads((out / "audit.json").read_text("utf-8"))
    assert [one["picture"] for one in record["pictures"]] == ["3.jpg", "7.jpg"]
    assert record["settings"]["model"] == "toy"
    rows = (out / "audit.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + sum(len(one["findings"]) for one in record["pictures"])
    assert "unsupported" in found.stdout
    assert "audit.html" in found.stdout.replace("\n", "")


def test_two_models_are_set_against_each_other(models: Path, tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 20)
    found = run("--annotations", captions, "--images", images, "--model", models / "soft",
                "--against", models / "hard", "--out", tmp_path / "out", "--beam", 1,
                "--split", "train", "--limit", 6)  # fmt: skip
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    against = record["against"]
    assert len(record["pictures"]) == 6
    assert set(against["better"]).isdisjoint(against["worse"])
    assert f"{len(against['better'])} pictures better, {len(against['worse'])} worse" in (
        found.stdout
    )
    for change in against["changes"]:
        assert (change["picture"] in against["better"]) == (change["gain"] > 0)


def test_a_bad_picture_is_one_line_and_the_others_go_on(models: Path, tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path)
    (images / "7.jpg").write_bytes(b"no picture")
    found = run("--annotations", captions, "--images", images, "--model", models / "soft",
                "--out", tmp_path / "out", "--beam", 1)  # fmt: skip
    assert found.exit_code == 1
    assert [line.startswith("regard: 7.jpg: ") for line in found.stderr.splitlines()] == [True]
    record = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    assert set(record["failures"]) == {"7.jpg"}
    assert "1 pictures could not be captioned" in (tmp_path / "out" / "audit.html").read_text(
        "utf-8"
    )


def test_a_file_name_that_is_no_utf8_is_written_as_escapes(models: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(toys.jpeg())
    rows = {"images": [{"filename": "a\udcff.jpg", "split": "val",
                        "sentences": [{"raw": "a dog"}]}]}  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(rows), "utf-8")
    found = run("--annotations", tmp_path / "d.json", "--images", tmp_path, "--model",
                models / "soft", "--out", tmp_path / "out", "--beam", 1)  # fmt: skip
    assert found.exit_code == 1  # there is no such file
    record = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    assert list(record["failures"]) == ["a\udcff.jpg"]


@pytest.mark.parametrize("name", ["audit.html", "audit.csv", "audit.json"])
def test_a_file_that_no_audit_wrote_is_not_replaced(
    name: str, models: Path, tmp_path: Path
) -> None:
    captions, images = toys.write_data(tmp_path, 4)
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("<title>Mine</title>")
    options = ("--annotations", captions, "--images", images, "--model", models / "soft",
               "--out", out, "--beam", 1)  # fmt: skip
    found = run(*options)
    assert isinstance(found.exception, ConfigError)
    assert f"{name}, which no audit wrote" in str(found.exception)
    assert [path.read_text() for path in out.iterdir()] == ["<title>Mine</title>"]
    (out / name).unlink()
    assert [run(*options).exit_code for _ in range(2)] == [0, 0]  # its own is replaced


def test_the_captions_are_not_written_over(models: Path, tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 4)
    before = captions.rename(tmp_path / "audit.csv").read_bytes()
    (tmp_path / "audit.html").write_text("<title>Where toy fails</title>")
    found = run("--annotations", tmp_path / "audit.csv", "--images", images, "--model",
                models / "soft", "--out", tmp_path, "--beam", 1)  # fmt: skip
    assert "which the command reads" in str(found.exception)
    assert (tmp_path / "audit.csv").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_said(models: Path, tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 4)
    (tmp_path / "file").write_text("")
    found = run("--annotations", captions, "--images", images, "--model", models / "soft",
                "--out", tmp_path / "file" / "out")  # fmt: skip
    assert found.exit_code == 1
    assert "--out" in str(found.exception)
