"""The table of faithfulness, small: what each number is made of."""

from pathlib import Path

import numpy as np
import pytest

from regard.data import load_dataset
from regard.errors import ConfigError, DatasetError, MissingExtra
from regard.faithfulness import experiments as module
from regard.faithfulness.experiments import (
    _batches,
    _mean_logprob,
    _pointing,
    control_scores,
    faithfulness,
)
from regard.faithfulness.occlusion import occlude
from regard.metrics.pointing import Region
from regard.text.words import plural, word_class
from tests.helpers import toys


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    captions, images = toys.write_data(tmp_path_factory.mktemp("faithful"), 12)
    return load_dataset(captions, images)


def test_every_experiment_is_in_the_table(data) -> None:
    captioner = toys.captioner()
    everywhere = {item.key: {w: [Region(((0, 0, 40, 60),))] for w in toys.WORDS} for item in data}
    told: list[str] = []
    found = faithfulness(
        captioner, data, probed=2, beam=1, regions=everywhere,
        report=lambda what, done, total: told.append(what),
    )  # fmt: skip
    assert found.settings["pictures"] == 3  # of the val split
    assert found.settings["probed"] == 2
    assert set(found.deletion) == {"attention", "occlusion", "random", "middle"}
    assert all(0 < area < 1 for area in [*found.deletion.values(), *found.insertion.values()])
    assert list(found.swaps) == ["none", "uniform", "permuted", "other picture"]
    assert found.regions["mass"] == pytest.approx(1)
    assert found.regions["hit"] == found.regions["uniform_hit"] == 1
    assert {"captioning", "covering cells", "attention: uniform"} <= set(told)
    said = [captioner.caption(i.file, beam=1) for i in data.split("val")]
    logprobs = [word.logprob for caption in said for word in caption.words]
    assert found.swaps["none"]["logprob"] == pytest.approx(np.mean(logprobs), abs=1e-4)
    falls = occlude(captioner, said[0])
    assert np.isfinite(falls.falls).all()


def test_the_region_of_a_word_follows_its_mentions(data) -> None:
    """The second mention of a word has the second region; the last serves all further."""
    captioner = toys.captioner()
    key = data.split("val").items[0].key
    words = captioner.caption(data.split("val").items[0].file, beam=1).words
    word = max({w.text for w in words}, key=[w.text for w in words].count)
    mentions = [w.text for w in words].count(word)
    none, whole = Region(((90, 90, 91, 91),)), Region(((0, 0, 40, 60),))
    found = faithfulness(captioner, data, probed=1, beam=1, regions={key: {word: [none, whole]}})
    assert found.regions["words"] == mentions
    assert found.regions["mass"] == pytest.approx((mentions - 1) / mentions)


def test_a_word_names_the_region_of_its_synonyms_and_other_forms(data) -> None:
    captioner = toys.captioner()
    item = data.split("val").items[0]
    caption = captioner.caption(item.file, beam=1)
    whole = Region(((0, 0, 40, 60),))
    said = {word.text for word in caption.words}
    name = next(w for w in toys.WORDS if w in said and word_class(w) == "thing")
    mentions = [word.text for word in caption.words].count(name)
    found = _pointing({item.key: caption}, {item.key: {plural(name): [whole]}})
    assert found["words"] == mentions
    assert found["mass"] == pytest.approx(1)
    assert _pointing({item.key: caption}, {item.key: {"harbour": [whole]}}) == {"words": 0}


def test_a_control_cannot_look_around(data) -> None:
    with pytest.raises(ConfigError, match="a control has uniform ones"):
        control_scores(toys.captioner(), data, beam=1)
    scores = control_scores(toys.captioner(scores="uniform"), data, beam=1)
    assert set(scores) == {"model", "bleu4", "cider_d", "failures"}
    assert scores["failures"] == {}


def test_a_split_may_be_named_as_a_file_names_it(data) -> None:
    with pytest.raises(DatasetError, match="'val' has 1 pictures to caption; two are needed"):
        faithfulness(toys.captioner(), data, split="Dev", limit=1)
    control = toys.captioner(scores="uniform")
    assert control_scores(control, data, split="Dev", beam=1) == control_scores(
        control, data, beam=1
    )


def test_wrong_demands_are_refused(data, tmp_path: Path) -> None:
    captioner = toys.captioner()
    with pytest.raises(ConfigError, match="probed is 0"):
        faithfulness(captioner, data, probed=0)
    with pytest.raises(DatasetError, match="no pictures in the split 'test'"):
        faithfulness(captioner, data, split="test")
    with pytest.raises(DatasetError, match="two are needed"):
        faithfulness(captioner, data, limit=1)


def test_what_is_lacking_is_said_before_the_first_caption(
    data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute:
        def accelerated(self, pictures: int) -> None:
            raise AssertionError("captioning began")

    with pytest.raises(ConfigError, match="cover is 'black'"):
        faithfulness(Mute(), data, cover="black")  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pycocoevalcap"):
        faithfulness(Mute(), data)  # type: ignore[arg-type]


def test_no_batch_holds_one_picture_alone() -> None:
    for count in range(2, 12):
        files = [str(n) for n in range(count)]
        for size in (1, 2, 3, 5, 50):
            batches = _batches(files, size)
            assert [file for batch in batches for file in batch] == files
            assert all(2 <= len(batch) <= max(2, size) + 1 for batch in batches)


def test_pictures_that_fail_are_told_of_and_left_out_of_swaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, images = toys.write_data(tmp_path, 16)
    (images / "15.jpg").write_text("no picture")
    batches: list[list[str]] = []

    def seen(files, size):
        batches.extend(_batches(files, 2))
        return _batches(files, 2)

    monkeypatch.setattr(module, "_batches", seen)
    found = faithfulness(toys.captioner(), load_dataset(captions, images), probed=1, beam=1)
    assert list(found.failures) == ["15.jpg"]
    assert "15.jpg" in found.failures["15.jpg"]
    assert found.to_json()["failures"] == found.failures
    assert found.settings["pictures"] == 3
    names = [[Path(file).name for file in batch] for batch in batches]
    # The third readable picture is beside the one that fails at first, and never after.
    assert names == [["3.jpg", "7.jpg"], ["11.jpg", "15.jpg"]] + [["3.jpg", "7.jpg", "11.jpg"]] * 3


def test_a_picture_never_lends_its_attention_to_itself(
    data, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = toys.captioner()
    files = [item.file for item in data.split("val")]
    first = captioner.caption(files[0], beam=1, min_length=3, max_length=3)
    second = captioner.caption(files[1], beam=1, min_length=4, max_length=4)
    asked: list[list[str]] = []
    annotate = captioner.annotate
    monkeypatch.setattr(
        captioner,
        "annotate",
        lambda media: asked.append([m.name for m in media]) or annotate(media),
    )
    _mean_logprob(captioner, [first, second])
    assert asked == [files[:2], files[1::-1]]
