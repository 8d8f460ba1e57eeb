"""Requests go through the network together, and none is changed by its company."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regard
from regard.errors import MissingExtra
from regard.media import read_image
from regard.serve.admission import Admission
from regard.serve.batching import Batcher
from regard.serve.requests import RequestError
from regard.serve.settings import Settings
from tests.helpers import toys


def request(name: int, **data: str) -> tuple[str, str, dict[str, Any]]:
    files = [("files", (f"{name}.jpg", toys.jpeg(name), "image/jpeg"))]
    # Toys of random weights would often say nothing at all.
    return "POST", "/v1/caption", {"files": files, "data": {"min_length": "3"} | data}


def batches(service: Any) -> list[str]:
    text = service("GET", "/metrics").text.splitlines()
    return [line for line in text if line.startswith(("regard_batch_pictures_count",
                                                      "regard_batch_pictures_sum"))]  # fmt: skip


def test_captions_in_company_equal_those_alone(serving: Any) -> None:
    # A trained model: to toys of random weights all pictures look alike.
    service = serving(captioners={"trained": regard.load()}, wait=0.5)
    pictures = sorted((Path(regard.__file__).parent / "samples").glob("*.jpg"))[:6]
    asked = [
        ("POST", "/v1/caption", {"files": {"files": (p.name, p.read_bytes())}}) for p in pictures
    ]
    together = [a.json()["captions"][0] for a in service.together(*asked)]
    count, pictures_sum = (float(line.split()[1]) for line in batches(service))
    assert pictures_sum == 6
    assert count < 6  # one batch where all come within the wait, as on a machine without other work
    for picture, one, found in zip(pictures, asked, together, strict=True):
        alone = service.together(one)[0].json()["captions"][0]
        assert found["caption"] == alone["caption"]
        assert found["file"] == picture.name
        np.testing.assert_allclose(found["alpha"], alone["alpha"], atol=1e-5)
    assert len({one["caption"] for one in together}) > 3


def test_only_like_requests_share_a_batch(serving: Any) -> None:
    service = serving(wait=0.5, batch_size=2)
    mixed = [request(0), request(1, beam="1"), request(2), request(3, model="hard"), request(4)]
    answers = service.together(*mixed)
    assert [a.status_code for a in answers] == [200] * 5
    # Three alike in batches of two, and two that are like none.
    assert batches(service) == ["regard_batch_pictures_count 4.0", "regard_batch_pictures_sum 5.0"]


def test_a_sampled_caption_depends_on_its_seed_and_on_nobody_else(serving: Any) -> None:
    service = serving(wait=0.5)
    sample = {"method": "sample", "seed": "5", "n_best": "2"}
    company = service.together(*(request(seed, **sample) for seed in range(4)))
    count, pictures_sum = (float(line.split()[1]) for line in batches(service))
    assert pictures_sum == 4
    assert count < 4  # sampled words allow a batch
    for seed, answer in enumerate(company):
        method, path, alone = request(seed, **sample)
        found = service(method, path, **alone).json()["captions"][0]
        shared = answer.json()["captions"][0]
        assert shared["caption"] == found["caption"]
        assert [o["caption"] for o in shared["n_best"]] == [o["caption"] for o in found["n_best"]]


def test_sampled_locations_depend_on_their_seed_and_on_nobody_else(serving: Any) -> None:
    # A batch draws its locations from one generator, row after row: company would change them.
    # A trained model: to toys of random weights all cells look alike.
    service = serving(captioners={"trained": regard.load("flickr8k-hard")}, wait=0.5)
    samples = Path(regard.__file__).parent / "samples"

    def sampled(name: str, seed: int) -> tuple[str, str, dict[str, Any]]:
        files = {"files": (name, (samples / name).read_bytes())}
        data = {"context": "sample", "seed": str(seed)}
        return "POST", "/v1/caption", {"files": files, "data": data}

    names = ["cat.jpg", "dog.jpg", "friends.jpg"]
    answers = service.together(*(sampled(name, 5) for name in names))
    company = [answer.json()["captions"][0] for answer in answers]
    assert batches(service)[0] == "regard_batch_pictures_count 3.0"  # each alone
    for name, found in zip(names, company, strict=True):
        alone = service.together(sampled(name, 5))[0].json()["captions"][0]
        assert found["caption"] == alone["caption"]
        np.testing.assert_allclose(found["alpha"], alone["alpha"], atol=1e-5)
    other = service.together(sampled("cat.jpg", 6))[0].json()["captions"][0]
    assert other["alpha"] != company[0]["alpha"]


def test_a_full_house_turns_away(serving: Any) -> None:
    service = serving(wait=0.5, waiting=3)
    answers = service.together(*map(request, range(8)))
    codes = sorted(a.status_code for a in answers)
    assert codes == [200] * 3 + [429] * 5
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert "try again" in refused.json()["error"]
    assert service.together(request(0))[0].status_code == 200


def test_pixels_are_bounded_in_a_request_and_in_all() -> None:
    admission = Admission(Settings(waiting=4, waiting_pixels=100))
    with admission.admit_files(1) as first, admission.admit_files(2) as second:
        first(60)
        with pytest.raises(RequestError, match="waiting") as busy:
            second(60)
        second(40)
        with pytest.raises(RequestError, match="more than 100 pixels") as large:
            second(61)
        with pytest.raises(RequestError, match="waiting"), admission.admit_files(2):
            pass
    assert (busy.value.status, large.value.status) == (429, 413)
    assert (admission.files, admission.pixels) == (0, 0)


def test_the_loop_goes_on_while_a_model_works() -> None:
    media = read_image(toys.picture(0))
    working, go_on = threading.Event(), threading.Event()
    model = toys.captioner()

    class Slow:
        def caption_many(self, *given: Any, **options: Any) -> Any:
            working.set()
            assert go_on.wait(10)
            return model.caption_many(*given, **options)

    async def work() -> None:
        batcher = Batcher({"m": Slow()}, Settings())  # type: ignore[dict-item]
        task = asyncio.create_task(batcher.caption("m", media, {}))
        while not working.is_set():
            await asyncio.sleep(0.001)
        assert not task.done()
        go_on.set()
        assert (await task).file == "<array>"
        batcher.close()

    asyncio.run(work())


def test_a_failure_of_the_model_reaches_those_who_asked_and_the_next_goes_on(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving(wait=0.2)
    batcher = service.app.state.service.batcher
    whole = batcher._work

    def work(batch: list[Any]) -> Any:
        if any(job.media.name == "1.jpg" for job in batch):
            raise RuntimeError("secret path")
        return whole(batch)

    monkeypatch.setattr(batcher, "_work", work)
    answers = service.together(request(1), request(2, beam="1"))
    assert [a.status_code for a in answers] == [500, 200]
    assert answers[0].json() == {"error": "the service failed (RuntimeError)."}
    assert 'status="500"} 1.0' in service("GET", "/metrics").text


def test_who_left_is_not_worked_for() -> None:
    media = [replace(read_image(toys.picture(i)), name=str(i)) for i in range(2)]

    async def work() -> list[int]:
        sizes: list[int] = []
        batcher = Batcher({"m": toys.captioner()}, Settings(wait=0.1), sizes.append)
        tasks = [asyncio.create_task(batcher.caption("m", one, {})) for one in media]
        await asyncio.sleep(0)
        tasks[0].cancel()
        assert (await tasks[1]).file == "1"
        batcher.close()
        return sizes

    assert asyncio.run(work()) == [1]


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from regard.errors import ConfigError
    from regard.serve import create_app

    with pytest.raises(ConfigError, match="no model"):
        create_app({})
    for package in ("prometheus_client", "fastapi"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtra, match=r"regard\[serve\]"):
            create_app({"m": toys.captioner()})
