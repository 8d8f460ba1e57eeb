"""The shipped default model of pictures: what it must never say, and what it is made of."""

from __future__ import annotations

import json

from regard.pretrained import shipped_models

NAMES = ("obama", "michael", "jackson", "ben", "jack", "barack", "john", "mary", "george")


def test_it_can_say_no_name_of_a_person() -> None:
    text = (shipped_models()["everyday"] / "vocabulary.json").read_text("utf-8")
    words = set(json.loads(text)["words"])
    assert not words & set(NAMES)
    assert {"zebra", "zebras", "fire hydrant", "fire hydrants", "echidna"} <= words


def test_its_folder_is_small_enough_to_ship() -> None:
    sizes = {file.name: file.stat().st_size for file in shipped_models()["everyday"].iterdir()}
    assert sum(sizes.values()) <= 105e6
    assert max(sizes.values()) <= 95e6
