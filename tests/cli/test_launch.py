"""`regard train --devices`: ranks are started, watched and ended together."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from regard.cli import launch
from tests.helpers import toys
from tests.helpers.together import curve

pytestmark = pytest.mark.slow

RECIPE = """
name = "toy"
encoder = { name = "small_cnn", image_size = 32, level = "stride8" }
decoder = { embedding_dim = 8, hidden_dim = 10, attention_dim = 7, attention = "hard" }
objective = { kind = "hard_attention" }
data = { min_count = 1, store = "STORE" }
training = { epochs = 3, batch_size = 4, save_every = 1 }
"""


def regard(folder: Path, *arguments: str, torchrun: bool = False) -> subprocess.Popen[str]:
    start = ["-m", "torch.distributed.run", "--nproc_per_node", "2"] if torchrun else []
    return subprocess.Popen(
        [sys.executable, *start, "-m", "regard", "train", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    found = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(pid) for pid in found]


def wait_for(what: Path) -> None:
    latest = time.monotonic() + 240  # two ranks import torch, on machines that do other work too
    while not what.exists():
        assert time.monotonic() < latest, f"{what} did not come"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def toy(folder: Path) -> list[str]:
    captions, images = toys.write_data(folder)
    (folder / "toy.toml").write_text(RECIPE.replace("STORE", str(folder / "store")))
    return ["toy.toml", "--data", str(captions), "--images", str(images)]


def test_interrupted_ranks_may_write_what_they_have_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"import time; time.sleep(0.5); open({str(tmp_path / 'written')!r}, 'w')"

    def start(*_: object) -> launch._Rank:
        process = subprocess.Popen([sys.executable, "-c", code], text=True)
        return launch._Rank(0, process, deque(), None)

    def interrupted(_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "_start", start)
    monkeypatch.setattr(launch, "_over", interrupted)
    assert launch.launch([], 1, 1, tmp_path) == 130
    assert (tmp_path / "written").exists()
    assert "encoded annotations are kept" in capsys.readouterr().err


@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_rank_or_launcher_ends_all(tmp_path: Path) -> None:
    given = toy(tmp_path)
    run = regard(tmp_path, *given, "--devices", "2", "--set", "training.epochs=4000")
    wait_for(tmp_path / "runs" / "toy" / "best")  # the folder is chosen once
    ranks = ranks_of(run)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert not any(map(alive, ranks))
    said = [line for line in errors.splitlines() if line.startswith("regard: ")]
    assert len(said) == 1
    assert f"rank 1 of 2 (process {ranks[1]}) was ended by SIGKILL" in said[0]
    assert said[0].endswith("regard train --resume runs/toy --devices 2")
    assert "Traceback" not in errors

    # The launcher is killed itself: its ranks do not stay behind.
    run = regard(tmp_path, "--resume", "runs/toy", "--devices", "2")
    while len(ranks := ranks_of(run)) < 2:
        time.sleep(0.05)
    run.kill()
    run.communicate(timeout=60)
    latest = time.monotonic() + 60
    while any(map(alive, ranks)) and time.monotonic() < latest:
        time.sleep(0.1)
    assert not any(map(alive, ranks))


def test_torchrun_starts_ranks_too(tmp_path: Path) -> None:
    run = regard(tmp_path, *toy(tmp_path), "--out", "run", torchrun=True)
    out, errors = run.communicate(timeout=250)
    assert run.returncode == 0, errors
    assert out == "run/best\n"
    assert errors.count("epoch 3:") == 1  # only one rank speaks
    assert len(curve(tmp_path / "run")) == 3 * 2  # 12 captions in steps of 2 × 4
