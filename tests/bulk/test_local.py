"""Bulk work in this process: one row per item, resumed to the same rows, held to its plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import regard
from regard.bulk import FinishedUnit, Worker, open_run
from regard.bulk.plan import FORMATS
from regard.captioner import Captioner
from regard.errors import CheckpointError, ConfigError, MissingExtra, UnknownName
from regard.media.image import read_image
from regard.media.reader import Reader
from tests.helpers import bulk_jobs, toys
from tests.helpers.bulk_jobs import do, job, rows, shards

each_format = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bulk_jobs.pictures(tmp_path / "in", 10, bad=(2, 7))


@each_format
def test_every_item_gets_the_row_of_its_caption(folder: Path, tmp_path: Path, form: str) -> None:
    done = do(job(folder, tmp_path / "out", form=form))
    assert done == [FinishedUnit(0, 4, 1), FinishedUnit(1, 4, 1), FinishedUnit(2, 2, 0)]
    found = rows(tmp_path / "out")
    assert [(r["unit"], r["index"]) for r in found] == [(i // 4, i % 4) for i in range(10)]
    paths = sorted(map(str, folder.iterdir()))
    assert [r["file"] for r in found] == paths
    model = regard.load()
    for row, path in zip(found, paths, strict=True):
        if path.endswith(("002.jpg", "007.jpg")):
            assert set(row) == {"unit", "index", "file", "error"}
            assert "not a picture that can be read" in row["error"] or path in row["error"]
            continue
        caption = model.caption(path, **bulk_jobs.QUICK)
        assert row["caption"] == caption.text
        assert row["medium"] == "image"
        assert [w["text"] for w in row["words"]] == [w.text for w in caption.words]
        assert [w["logprob"] for w in row["words"]] == pytest.approx(
            [w.logprob for w in caption.words], abs=1e-4
        )
        assert row["digest"] == read_image(path).digest
        assert row["model"] == "flickr8k-soft"
        assert len(row["model_digest"]) == 64
        assert not {"seconds", "n_best", "alpha", "grid"} & set(row)


@each_format
def test_traces_are_those_of_the_one_schema(folder: Path, tmp_path: Path, form: str) -> None:
    do(job(folder, tmp_path / "out", form=form, traces=True))
    row = rows(tmp_path / "out")[0]
    caption = regard.load().caption(str(folder / "000.jpg"), **bulk_jobs.QUICK).to_json()
    assert row["alpha"] == [pytest.approx(line, abs=1e-4) for line in caption["alpha"]]
    for word, wanted in zip(row["words"], caption["words"], strict=True):
        # Of what is not known JSON has no key and Parquet a null.
        sure, wanted_sure = word.pop("confidence", None), wanted.pop("confidence", None)
        assert sure == (wanted_sure and pytest.approx(wanted_sure, abs=1e-3))
        assert {k for k, v in word.items() if v is not None or k in wanted} == set(wanted)
        assert len(word["alternatives"]) == 5
        assert word["peak"] == pytest.approx(wanted["peak"], abs=1e-4)
    grid = {k: v for k, v in row["grid"].items() if v is not None}
    assert grid == caption["grid"]
    own = {"unit", "index", "digest", "model_digest"}
    assert set(row) - own == set(caption) - {"seconds", "n_best"}


@each_format
def test_what_was_interrupted_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, form: str
) -> None:
    do(job(folder, tmp_path / "whole", form=form))
    made = job(folder, tmp_path / "out", form=form)
    assert len(do(made, units=1)) == 1
    assert list(shards(tmp_path / "out")) == [f"part-000000.{form}"]
    (tmp_path / "out" / f".part-000001.{form}.1234.new").write_bytes(b"half")  # a kill left it
    todo = open_run(made)
    assert list(todo.missing) == [1, 2]
    assert todo.there == (1, 4, 1)
    assert [d.unit for d in do(made)] == [1, 2]
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".*"))
    assert do(made) == []
    assert open_run(made).there == (3, 10, 2)


def test_a_lost_shard_is_made_again_and_no_other(folder: Path, tmp_path: Path) -> None:
    made = job(folder, tmp_path / "out")
    do(made)
    before = shards(tmp_path / "out")
    (tmp_path / "out" / "part-000001.jsonl").unlink()
    assert [d.unit for d in do(made)] == [1]
    assert shards(tmp_path / "out") == before


def test_failed_items_are_tried_again_where_that_is_asked(folder: Path, tmp_path: Path) -> None:
    made = job(folder, tmp_path / "out")
    do(made)
    size = (folder / "002.jpg").stat().st_size
    (folder / "002.jpg").write_bytes(toys.jpeg(2, (16, 24))[:size])
    assert do(made) == []
    assert [d.unit for d in do(made, retry_failed=True)] == [0, 1]
    assert len(rows(tmp_path / "out")) == 10


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "options": ({"options": {"beam": 2, "max_length": 3}}, "options was .* and is"),
    "traces": ({"traces": True}, "traces was False and is True"),
    "format": ({"form": "parquet"}, "form was 'jsonl' and is 'parquet'"),
    "model": ({"model": "flickr8k-hard"}, "models was"),
    "unit": ({"unit": 5}, "unit was 4 and is 5"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_holds_rows_of_one_job(folder: Path, tmp_path: Path, change: str) -> None:
    do(job(folder, tmp_path / "out"), units=1)
    before = shards(tmp_path / "out")
    settings, says = CHANGES[change]
    with pytest.raises(ConfigError, match=says):
        open_run(job(folder, tmp_path / "out", **settings))
    assert shards(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["more", "fewer", "other bytes"])
def test_a_source_that_changed_is_said(folder: Path, tmp_path: Path, change: str) -> None:
    do(job(folder, tmp_path / "out"), units=1)
    if change == "more":
        (folder / "zzz.jpg").write_bytes(b"")
    elif change == "fewer":
        (folder / "009.jpg").unlink()
    else:
        (folder / "009.jpg").write_bytes(b"shorter")
    with pytest.raises(ConfigError, match="has changed since"):
        open_run(job(folder, tmp_path / "out"))


def test_a_plan_without_rows_holds_nobody(folder: Path, tmp_path: Path) -> None:
    open_run(job(folder, tmp_path / "out"))
    do(job(folder, tmp_path / "out", unit=5))
    assert bulk_jobs.plan_of(tmp_path / "out")["units"] == 2


def test_rows_without_a_plan_are_left_alone(folder: Path, tmp_path: Path) -> None:
    do(job(folder, tmp_path / "out"))
    (tmp_path / "out" / "_plan.json").unlink()
    with pytest.raises(ConfigError, match="rows without their plan"):
        open_run(job(folder, tmp_path / "out"))
    (tmp_path / "out" / "_plan.json").write_text("[")
    with pytest.raises(ConfigError, match="not a plan of `regard bulk`"):
        open_run(job(folder, tmp_path / "out"))


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"options": {"beam": 0}}, ConfigError, "beam is 0"),
        ({"options": {"context": "argmax"}}, ConfigError, "soft attention"),
        ({"options": {"bream": 1}}, UnknownName, "bream"),
        ({"form": "xml"}, ConfigError, "format is 'xml'"),
        ({"unit": 0}, ConfigError, "unit is 0"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"model": "nobody"}, CheckpointError, "no model 'nobody'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        open_run(job(folder, tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_the_output_is_a_folder_that_can_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; a folder was expected"):
        open_run(job(folder, tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot be written"):
        open_run(job(folder, tmp_path / "file" / "out"))
    with pytest.raises(UnknownName, match="engine 'rey'"):
        do(job(folder, tmp_path / "out"), engine="rey")


def test_a_file_that_is_listed_twice_has_two_rows(folder: Path, tmp_path: Path) -> None:
    (folder / "list.txt").write_text("000.jpg\n001.jpg\n000.jpg\ngone.jpg\n000.jpg\n")
    do(job(folder / "list.txt", tmp_path / "out"))
    found = rows(tmp_path / "out")
    assert [r["file"] for r in found] == ["000.jpg", "001.jpg", "000.jpg", "gone.jpg", "000.jpg"]
    assert found[0]["caption"] == found[2]["caption"] == found[4]["caption"]
    assert "error" in found[3]
    assert len({(r["unit"], r["index"]) for r in found}) == 5


@each_format
def test_names_that_are_no_utf_8_are_written_as_escapes(tmp_path: Path, form: str) -> None:
    source = bulk_jobs.pictures(tmp_path / "in", 1)
    (source / "000.jpg").rename(source / "bad-\udcff.jpg")
    do(job(source, tmp_path / "out", form=form))
    (row,) = rows(tmp_path / "out")
    assert row["file"].endswith("bad-\\udcff.jpg")
    assert row["caption"]


def test_an_empty_tar_has_a_shard_without_rows(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "in").mkdir()
    tarfile.open(tmp_path / "in" / "a.tgz", "w:gz").close()
    for form in FORMATS:
        made = job(tmp_path / "in", tmp_path / form, form=form)
        assert do(made) == [FinishedUnit(0, 0, 0)]
        assert do(made) == []


def test_an_unforeseen_error_takes_one_item(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Reader.read

    def read(self: Reader, source: Any, **options: Any) -> Any:
        if str(source).endswith("005.jpg"):
            raise RuntimeError("nobody thought of this")
        return real(self, source, **options)

    do(job(folder, tmp_path / "whole"))
    monkeypatch.setattr(Reader, "read", read)
    assert sum(d.failed for d in do(job(folder, tmp_path / "out"))) == 3
    whole, found = rows(tmp_path / "whole"), rows(tmp_path / "out")
    assert "unforeseen error: RuntimeError: nobody thought of this" in found[5]["error"]
    del whole[5], found[5]
    assert [r.get("caption") for r in found] == [r.get("caption") for r in whole]
    assert [r["file"] for r in found] == [r["file"] for r in whole]


def test_an_error_of_the_source_itself_stops_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("a fault of our own")

    monkeypatch.setattr("regard.bulk.worker.items_of", broken)
    with pytest.raises(RuntimeError, match="of our own"):
        do(job(folder, tmp_path / "out"))
    assert shards(tmp_path / "out") == {}


def test_a_worker_with_another_model_refuses(folder: Path, tmp_path: Path) -> None:
    todo = open_run(job(folder, tmp_path / "out"))
    other = {medium: m | {"digest": "0" * 64} for medium, m in todo.plan.models.items()}
    from regard.bulk.filesystem import LocalPlace
    from regard.bulk.plan import read_unit

    unit = read_unit(LocalPlace(), str(tmp_path / "out"), 0, todo.plan.offsets[1])
    with pytest.raises(ConfigError, match="differs from the one in the job's plan"):
        list(Worker(todo.plan.job, other).run([(0, unit)]))


def test_rows_do_not_depend_on_how_many_cores_there_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(job(folder, tmp_path / "one"))
    cores: list[int | None] = []
    real = Captioner.accelerated

    def three(self: Captioner, pictures: int, *, cores_: Any = cores, **_: Any) -> Captioner:
        cores_.append(3)
        return real(self, pictures, cores=3)

    monkeypatch.setattr(Captioner, "accelerated", three)
    do(job(folder, tmp_path / "three"))
    assert cores
    assert shards(tmp_path / "three") == shards(tmp_path / "one")


def test_media_of_all_kinds_go_to_their_models(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    samples = Path(regard.__file__).parent / "samples"
    (tmp_path / "list.txt").write_text(
        "".join(f"{samples / name}\n" for name in ("dog.jpg", "hippocampus.nii.gz", "cat.jpg"))
    )
    do(job(tmp_path / "list.txt", tmp_path / "out", traces=True, form="parquet", options={}))
    found = rows(tmp_path / "out")
    assert [r["medium"] for r in found] == ["image", "volume", "image"]
    assert found[1]["model"] == "hippocampus-soft"
    assert found[1]["notices"] == ["Not for clinical use."]
    assert found[1]["grid"]["axes"] == ["slices", "rows", "cols"]
    assert len({r["model_digest"] for r in found}) == 2
    do(job(tmp_path / "list.txt", tmp_path / "named", model="flickr8k-soft"))
    named = rows(tmp_path / "named")
    assert "captions pictures" in named[1]["error"]
    assert [bool(r.get("caption")) for r in named] == [True, False, True]


def test_json_lines_of_local_files_need_no_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet", "ray", "fsspec"):
        monkeypatch.setitem(sys.modules, name, None)
    do(job(folder, tmp_path / "out"), engine="auto")
    assert len(rows(tmp_path / "out")) == 10
    for settings, says in (
        ({"form": "parquet"}, "writing Parquet.*regard\\[bulk\\].*--format jsonl"),
        ({"out": "s3://bucket/x"}, "s3://bucket.*regard\\[bulk\\]"),
        ({"source": "s3://bucket/x"}, "s3://bucket.*regard\\[bulk\\]"),
    ):
        given: dict[str, Any] = {"source": folder, "out": tmp_path / "x"} | settings
        with pytest.raises(MissingExtra, match=says):
            open_run(job(**given))
    (folder / "x.parquet").write_bytes(b"")
    with pytest.raises(MissingExtra, match="Parquet"):
        open_run(job(folder, tmp_path / "y"))
    with pytest.raises(MissingExtra, match="--engine local"):
        do(job(folder / "000.jpg", tmp_path / "z"), engine="ray")


def test_parquet_shards_say_how_many_failed_without_their_rows(
    folder: Path, tmp_path: Path
) -> None:
    from pyarrow import parquet

    do(job(folder, tmp_path / "out", form="parquet"))
    table = parquet.read_table(tmp_path / "out")  # the plan beside them is hidden from it
    assert table.num_rows == 10
    found = parquet.read_metadata(tmp_path / "out" / "part-000000.parquet").metadata
    assert (found[b"regard.rows"], found[b"regard.failed"]) == (b"4", b"1")


def test_lines_with_error_in_a_caption_are_no_failures(tmp_path: Path) -> None:
    from regard.bulk.filesystem import LocalPlace
    from regard.bulk.result_shards import counts_of

    line = json.dumps({"file": 'an "error": here', "caption": '"error": '})
    (tmp_path / "a.jsonl").write_text(line + "\n" + '{"file": "x", "error": "y"}\n')
    assert counts_of(LocalPlace(), str(tmp_path / "a.jsonl"), "jsonl") == (2, 1)


def test_a_reader_that_is_not_installed_costs_its_items_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    folder = bulk_jobs.pictures(tmp_path / "in", 3)
    (folder / "001.mp4").write_bytes(b"a clip")
    (done,) = do(job(folder, tmp_path / "out"))
    assert (done.rows, done.failed) == (4, 1)
    found = rows(tmp_path / "out")
    assert [bool(r.get("caption")) for r in found] == [True, True, False, True]
    assert "regard[video]" in found[2]["error"]


@pytest.mark.parametrize("source", ["{}", "{}/", "{}/*.jpg", "{}/../in"])
def test_rows_do_not_go_among_what_is_read(tmp_path: Path, source: str) -> None:
    folder = bulk_jobs.pictures(tmp_path / "in", 2)
    with pytest.raises(ConfigError, match="the folder of the source itself"):
        open_run(job(source.format(folder), folder))
    assert len(list(folder.iterdir())) == 2
    (folder / "list.txt").write_text("000.jpg\n")
    do(job(folder / "list.txt", folder))  # whose order nothing there can change
    do(job(folder / "list.txt", folder))
    assert len(rows(folder)) == 1


@pytest.mark.parametrize("settings", [{"address": "ray://head:10001"}, {"workers": 4}])
def test_a_cluster_is_not_asked_of_this_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="use --engine ray"):
        do(job(folder, tmp_path / "out"), engine="local", **settings)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sys.modules["regard.bulk.engines"], "_has_ray", lambda: False)
    with pytest.raises(MissingExtra, match="--engine local"):
        do(job(folder, tmp_path / "out"), engine="auto", **settings)
    assert not rows(tmp_path / "out")
