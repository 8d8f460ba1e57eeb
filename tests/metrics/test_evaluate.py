"""Evaluation of a whole split, in Python and on the command line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regard.captioner import Failure
from regard.cli.main import app
from regard.config import DecodingConfig, Recipe
from regard.config.io import to_dict
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.errors import ConfigError, DatasetError, MediaError, UnknownName
from regard.metrics import java
from regard.metrics.split_evaluation import evaluate
from regard.model_pool import ModelPool
from tests.helpers import toys

TEXTS = {"a.jpg": "a red dog runs", "b.jpg": "two cats sit on a mat"}


@dataclass
class Token:
    text: str
    logprob: float = -0.5


@dataclass
class Said:
    text: str

    @property
    def words(self) -> list[Token]:
        return [Token(word) for word in self.text.split()]


class Parrot:
    """Stands for a captioner: says what TEXTS holds; any other file cannot be read."""

    name = "parrot"
    vocabulary = toys.vocabulary()
    config = Recipe()

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def accelerated(self, pictures: int) -> "Parrot":
        return self

    def caption_many(self, sources: Any, **options: Any) -> Any:
        self.options = options
        for source in sources:
            name = Path(source).name
            if name in TEXTS:
                yield Said(TEXTS[name])
            else:
                yield Failure(source, MediaError(f"{name} is no picture."))


def dataset(*names: str, split: str = "val") -> CaptionDataset:
    items = (
        CaptionedItem(f"photos/{n}", (TEXTS.get(n, "a bird flies"), "a picture"), split, n)
        for n in names
    )
    return CaptionDataset(tuple(items), "captions.csv")


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java.shutil, "which", lambda name: None)


@pytest.mark.parametrize("given", [None, DecodingConfig(), DecodingConfig(0.5, 3)])
def test_captions_are_decoded_as_is_asked_or_as_the_model_has_it(
    given: DecodingConfig | None,
) -> None:
    parrot = Parrot()
    parrot.config = Recipe(decoding=DecodingConfig(0.8, 2))
    result = evaluate(parrot, dataset("a.jpg"), decoding=given)  # type: ignore[arg-type]
    wanted = to_dict(given or parrot.config.decoding)
    assert {name: parrot.options[name] for name in wanted} == wanted
    assert {name: result.settings[name] for name in wanted} == wanted


def test_one_caption_per_picture_is_scored_and_labelled():
    parrot = Parrot()
    seen: list[tuple[int, int]] = []
    result = evaluate(
        parrot,  # type: ignore[arg-type]
        dataset("a.jpg", "b.jpg"),
        beam=5,
        report=lambda done, total: seen.append((done, total)),
    )
    assert parrot.options["beam"] == 5
    assert seen == [(1, 2), (2, 2)]
    assert result.captions == TEXTS
    assert result.failures == {}
    assert result.scores.values["bleu1"] == pytest.approx(100, abs=1e-4)
    assert result.settings == {
        "model": "parrot",
        "split": "val",
        "beam": 5,
        "context": "expected",
        "length_penalty": 0.0,
        "block_ngram": 0,
        "name_once": False,
        "tokenizer": "python",
        "references": 2,
        "pictures": 2,
    }
    record = json.loads(json.dumps(result.to_json()))
    assert list(record["scores"]) == [
        "bleu1",
        "bleu2",
        "bleu3",
        "bleu4",
        "rouge_l",
        "cider_d",
        "meteor",
    ]
    assert record["scores"]["meteor"] is None
    assert "java" in record["missing"]["meteor"]


def test_a_failed_picture_counts_as_an_empty_caption():
    whole = evaluate(Parrot(), dataset("a.jpg", "b.jpg"))  # type: ignore[arg-type]
    result = evaluate(Parrot(), dataset("a.jpg", "b.jpg", "c.jpg"))  # type: ignore[arg-type]
    assert result.captions == TEXTS | {"c.jpg": ""}
    assert result.failures == {"c.jpg": "c.jpg is no picture."}
    assert result.settings["pictures"] == 3
    assert result.scores.values["rouge_l"] == pytest.approx(whole.scores.values["rouge_l"] * 2 / 3)


def test_a_limit_takes_the_first_pictures():
    result = evaluate(Parrot(), dataset("a.jpg", "b.jpg"), limit=1)  # type: ignore[arg-type]
    assert list(result.captions) == ["a.jpg"]


def test_an_empty_split_names_those_there_are():
    with pytest.raises(DatasetError, match=r"no pictures in the split 'test'; it has val"):
        evaluate(Parrot(), dataset("a.jpg"), split="test")  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["dev", "Val", "validation"])
def test_a_split_may_be_named_as_a_file_names_it(split: str):
    found = evaluate(Parrot(), dataset("a.jpg"), split=split)  # type: ignore[arg-type]
    assert list(found.captions) == ["a.jpg"]
    assert found.settings["split"] == "val"


def test_faults_are_found_before_the_first_caption():
    parrot = Parrot()
    with pytest.raises(UnknownName, match="tokenizer"):
        evaluate(parrot, dataset("a.jpg"), tokenizer="pbt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="limit is -1"):
        evaluate(parrot, dataset("a.jpg"), limit=-1)  # type: ignore[arg-type]
    assert parrot.options == {}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `regard evaluate` with the parrot on the pictures named."""
    monkeypatch.setattr(ModelPool, "captioner", lambda self, medium: Parrot())

    def run(names: list[str], *options: str):
        rows = [f"{n},{TEXTS.get(n, 'a bird')},val" for n in names]
        for name in names:
            (tmp_path / name).touch()
        path = tmp_path / "flickr8k.csv"  # published scores stand below those of its name only
        path.write_text("\n".join(["file,caption,split", *rows]) + "\n", "utf-8")
        return CliRunner().invoke(app, ["evaluate", "--annotations", str(path), *options])

    return run


def test_the_command_prints_the_papers_rows_and_writes_json(command, tmp_path: Path):
    out = tmp_path / "scores.json"
    result = command(["a.jpg", "b.jpg"], "--json", str(out))
    assert result.exit_code == 0, result.output
    ours, *papers, habits = [line for line in result.stdout.splitlines() if "│" in line]
    assert "parrot" in ours
    assert "val (2) · python · beam 3 · 1 refs" in ours
    assert [p for p in ("Log Bilinear", "Soft", "Hard", "person") if p in "".join(papers)] == [
        "Log Bilinear",
        "Soft",
        "Hard",
        "person",
    ]
    assert "no METEOR: no `java` on the PATH" in result.stderr
    assert habits.split("│")[2:6] == [" 5.0   ", " 2 of 2   ", " 9 of 8     ", " 0.00        "]
    record = json.loads(out.read_text("utf-8"))
    assert set(record) == {*("scores", "missing", "settings", "captions", "failures", "statistics")}
    assert record["captions"] == TEXTS


def test_a_hard_model_is_scored_at_the_location_that_is_asked_for(command):
    assert "refs · argmax location" in command(["a.jpg"], "--context", "argmax").stdout
    parrot = Parrot()
    result = evaluate(parrot, dataset("a.jpg"), context="argmax")  # type: ignore[arg-type]
    assert (parrot.options["context"], result.settings["context"]) == ("argmax", "argmax")


def test_the_command_exits_1_where_a_picture_failed(command):
    result = command(["a.jpg", "c.jpg"])
    assert result.exit_code == 1
    assert "c.jpg: c.jpg is no picture. Scored as an empty caption." in result.stderr
    assert "parrot" in result.stdout


def test_the_command_looks_at_the_output_folder_first(command, tmp_path: Path):
    result = command(["a.jpg"], "--json", str(tmp_path / "none" / "x.json"))
    assert result.exit_code == 2
    assert "no folder" in result.stderr
    assert result.stdout == ""


def test_what_the_captions_are_like_is_of_those_that_were_written():
    result = evaluate(Parrot(), dataset("a.jpg", "b.jpg", "c.jpg"))  # type: ignore[arg-type]
    made = result.statistics
    assert (made.captions, made.mean_length, made.distinct, made.vocabulary) == (2, 5, 2, 8)
    assert made.unsupported == 0  # the references are what it says
    assert [len(words) for words in result.judged] == [3, 4]  # red dog runs; two cats sit mat
    assert all(ok and logprob == -0.5 for words in result.judged for logprob, ok in words)


def test_a_fit_that_fails_costs_neither_the_scores_nor_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.captioner().save(tmp_path / "model")
    before = (tmp_path / "model" / "config.json").read_bytes()
    captions, images = toys.write_data(tmp_path, 4)
    command = ["evaluate", "--annotations", captions, "--images", images, "--model",
               tmp_path / "model", "--length-penalty", "0.8", "--keep-decoding", "--calibrate",
               "--json", tmp_path / "found.json", "--beam", "1"]  # fmt: skip
    result = CliRunner().invoke(app, [str(a) for a in command])
    assert isinstance(result.exception, DatasetError)
    assert "too few to calibrate" in str(result.exception)
    assert "scores × 100" in result.stdout
    assert "Log Bilinear" not in result.stdout
    record = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert record["scores"]["bleu1"] is not None
    assert "calibration" not in record
    assert (tmp_path / "model" / "config.json").read_bytes() == before


def test_names_and_references_that_are_no_utf8_are_scored_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelPool, "captioner", lambda self, medium: Parrot())
    rows = [{"file": "a.jpg", "caption": "a red dog \ud83d runs", "split": "val"},
            {"file": "bad-\udcff.jpg", "caption": "a bird", "split": "val"}]  # fmt: skip
    (tmp_path / "a.jpg").touch()
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = ["evaluate", "--annotations", path, "--json", tmp_path / "found.json"]
    result = CliRunner().invoke(app, [str(a) for a in command])
    assert result.exit_code == 1, result.output
    record = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert record["captions"] == {"a.jpg": TEXTS["a.jpg"], "bad-\udcff.jpg": ""}


def test_the_table_says_that_characters_are_compared(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEXTS, "a.jpg", "赤い丸が右にある")
    monkeypatch.setitem(TEXTS, "b.jpg", "...")
    found = command(["a.jpg", "b.jpg"])
    assert "val (2) · characters · beam 3" in found.stdout
    assert "METEOR: it is for English" in found.stderr
    assert "captions that hold no word: 1, such as '...' of 'b.jpg'" in found.stderr
    assert "captions of the model that hold no word: 1, such as 'b.jpg'" in found.stderr
