"""Values of other types in a checkpoint's JSON are named before anything is built from them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from regard.checkpoint.folder import SPECIAL_IDS, check_config, check_metrics
from regard.errors import CheckpointError

CONFIG: dict[str, Any] = {
    "name": "toy",
    "medium": "image",
    "recipe": {"name": "toy", "encoder": {"level": "stride8"}, "decoder": {}},
    "preprocessing": {"size": 64},
    "encoder": {"name": "e", "digest": "d", "annotation_dim": 6, "grid_shape": [2, 2]},
    "special_ids": SPECIAL_IDS,
    "files": {"vocabulary.json": "00"},
}


def changed(dotted: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    at = config
    *path, last = dotted.split(".")
    for key in path:
        at = at[key]
    at[last] = value
    return config


def test_a_whole_config_passes() -> None:
    check_config(CONFIG, "config.json")
    check_metrics({}, "metrics.json")
    check_metrics({"scores": {"bleu4": 1.5, "spice": None}, "settings": {}}, "metrics.json")


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        *(("name", v) for v in (None, 3, ["a"], "x" * 1001)),
        *(("medium", v) for v in ("text", None, [])),
        *((key, v) for key in ("recipe", "preprocessing", "special_ids") for v in (None, [], "x")),
        *(("encoder.annotation_dim", v) for v in (0, -1, 2.0, True, "6", 2**40)),
        *(("encoder.grid_shape", v) for v in ([], [0], [1.5], [True], [2] * 4, [2**30, 2], "2")),
        ("encoder.name", None),
        ("encoder.digest", 0),
        ("recipe.encoder", []),
        ("recipe.encoder.level", {}),
        ("recipe.decoder", 1),
        ("files", []),
        ("files", {"vocabulary.json": 0}),
    ],
)
def test_a_value_of_another_type_is_named(dotted: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=dotted.replace(".", r"\.")) as caught:
        check_config(changed(dotted, value), "model/config.json")
    assert "model/config.json" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_all_that_is_missing_is_named() -> None:
    config = {"name": "toy", "encoder": {"name": "e"}}
    with pytest.raises(CheckpointError, match=r"medium, recipe.*encoder\.digest"):
        check_config(config, "config.json")


@pytest.mark.parametrize(
    "metrics",
    [{"scores": []}, {"scores": {"bleu4": "1"}}, {"scores": {"bleu4": [1]}}, {"settings": "x"}],
)
def test_metrics_of_other_types_are_refused(metrics: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"metrics\.json"):
        check_metrics(metrics, "metrics.json")
