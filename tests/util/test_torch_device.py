"""The choice of a device, and clear errors where one cannot be used."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from regard.checkpoint import components
from regard.cli import options
from regard.cli.main import main
from regard.errors import ConfigError, DeviceError, MissingExtra
from regard.training.devices import Devices, rank_placement, supports_bf16
from regard.util import torch_device
from regard.util.torch_device import Halving, choose_device, memory_error, pictures_at_once
from tests.helpers import toy_card, toys


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes torch say that it sees GPUs; a tensor on one lies on the CPU."""
    zeros = torch.zeros

    def see(count: int, error: Exception | None = None) -> None:
        def made(size: int, device: torch.device) -> torch.Tensor:
            if error is not None and device.type != "cpu":
                raise error

            class Fake:
                def __init__(self) -> None:
                    self.device = torch.device(device.type, device.index or 0)

                def cpu(self) -> torch.Tensor:
                    return zeros(size)

            return Fake()  # type: ignore[return-value]

        monkeypatch.setattr(torch, "zeros", made)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")

    return see


def test_auto_is_a_gpu_where_torch_sees_one(gpus: Callable[..., None]) -> None:
    assert choose_device().describe() == "runs on cpu in fp32: torch sees no GPU"
    assert choose_device("cpu").describe("bf16") == "runs on cpu in bf16: it was asked for"
    gpus(2)
    assert choose_device().describe() == "runs on cuda:0 (NVIDIA H100) in fp32: torch sees 2 GPUs"
    assert choose_device("cuda:1").device == "cuda:1"
    assert choose_device("cpu").device == "cpu"


def test_without_torch_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_device, "find_spec", lambda _: None)
    assert choose_device().describe() == "runs on cpu in fp32: torch is not installed"
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="'cuda' needs the package 'torch'"):
        choose_device("cuda")


def test_a_machine_without_a_gpu_does_not_import_torch() -> None:
    code = (
        "import sys; from regard.checkpoint import components as c; c._GPU_FILES = ();"
        "assert c.placed('auto') == 'cpu'; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AssertionError("Torch not compiled with CUDA enabled"), "was built without CUDA. Install"),
        (
            RuntimeError("Found no NVIDIA driver on your system. Please check that you have an"),
            "there is no NVIDIA driver. Install one, or use the CPU",
        ),
        (
            RuntimeError(
                "The NVIDIA driver on your system is too old (found version 11040). Please update"
            ),
            r"the NVIDIA driver \(11040\) is too old for torch .* Update it",
        ),
        (
            torch.AcceleratorError(
                "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors"
            ),
            "the GPU is busy: another process holds it",
        ),
        (
            torch.AcceleratorError("CUDA error: invalid device ordinal\nGPU device may be out of"),
            "there are 2 GPUs, numbered from 0. Name one of them",
        ),
        (
            torch.AcceleratorError("CUDA error: no kernel image is available for execution"),
            "has no code for a GPU of this kind",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
            r"the memory of cuda is full: 2.00 MiB more were requested\. Other processes may hold",
        ),
        (RuntimeError("CUDA unknown error\nmore"), "CUDA unknown error. Check the driver, or use"),
    ],
    ids=lambda x: "" if isinstance(x, Exception) else x[:24],
)
def test_a_device_that_cannot_be_used_is_one_clear_line(
    error: Exception,
    said: str,
    gpus: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpus(2, error)
    with pytest.raises(DeviceError, match=said) as raised:
        choose_device("cuda")
    assert isinstance(raised.value, ConfigError)
    monkeypatch.setattr("sys.argv", ["regard", "caption", "none.jpg", "--device", "cuda"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("regard: ")


def test_unknown_devices_are_named(gpus: Callable[..., None]) -> None:
    for name in ("abacus", "cuda:x", "meta"):
        with pytest.raises(DeviceError, match=f"device '{name}'"):
            choose_device(name)


def test_a_driver_that_is_too_old_is_said_though_auto_takes_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unavailable() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 9)",
            stacklevel=2,
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    found = choose_device()
    assert found.device == "cpu"
    assert "torch sees no GPU: the NVIDIA driver (9) is too old" in found.reason


def test_commands_say_where_they_run(
    gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert options.placed("cpu") == "cpu"
    assert capsys.readouterr().err == ""
    gpus(1)
    monkeypatch.setattr(components, "may_have_gpu", lambda: True)
    assert options.placed("auto") == "cuda:0"
    line = "regard: runs on cuda:0 (NVIDIA H100) in fp32: torch sees 1 GPU\n"
    assert capsys.readouterr().err == line


def test_each_rank_has_a_gpu_of_its_own(gpus: Callable[..., None]) -> None:
    assert rank_placement("auto", 1, 2).device == "cpu"
    gpus(2)
    assert rank_placement("auto", 1, 2).device == "cuda:1"
    assert rank_placement("cuda", 0, 2).device == "cuda:0"
    assert rank_placement("cpu", 1, 2).device == "cpu"
    with pytest.raises(DeviceError, match="3 processes on this machine need a GPU each, and it h"):
        rank_placement("auto", 2, 3)
    with pytest.raises(DeviceError, match="'cuda:1' cannot be shared by 2 processes"):
        rank_placement("cuda:1", 0, 2)


def test_the_device_decides_on_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert supports_bf16(torch.device("cuda"))
    assert not supports_bf16(torch.device("mps"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert not supports_bf16(Devices().device)


# Memory


def test_parts_are_halved_until_they_fit_and_the_size_is_remembered() -> None:
    tried: list[int] = []

    def work(items: list[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return [-item for item in items]

    halving = Halving("cuda:0")
    assert halving(work, list(range(10))) == [-item for item in range(10)]
    assert tried == [10, 5, 2, 2, 2, 2, 2]
    assert halving(work, [1, 2, 3, 4]) == [-1, -2, -3, -4]
    assert tried[7:] == [2, 2]


def test_one_item_that_does_not_fit_is_an_error() -> None:
    def work(items: list[int]) -> list[int]:
        raise RuntimeError(
            "MPS backend out of memory (MPS allocated: 1 GB). Tried to allocate 2 GB"
        )

    with pytest.raises(DeviceError, match="memory of mps is full: 2 GB more were requested. One"):
        Halving("mps")(work, [1, 2])

    def broken(items: list[int]) -> list[int]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        Halving("mps")(broken, [1, 2])


def test_captions_go_on_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_card.install()
    captioner = toys.captioner()
    pictures = [toys.picture(seed) for seed in range(5)]
    wanted = [one.text for one in captioner.caption(pictures)]
    moved = captioner.to("toy")
    encode, sizes = moved.backend.encode, []

    def little_memory(pixels, *rest):  # type: ignore[no-untyped-def]
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return encode(pixels, *rest)

    monkeypatch.setattr(moved.backend, "encode", little_memory)
    assert [one.text for one in moved.caption(pictures)] == wanted
    assert sizes == [5, 2, 2, 1]


def test_batches_of_a_gpu_have_the_size_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))
    assert pictures_at_once("cuda:0") == 16
    assert options.items_of("auto", "cuda:0") == options.items_of("auto", "cpu") == 32
    free = 2**40
    assert options.items_of("auto", "cuda:0") == 512
    assert options.items_of("7", "cuda:0") == 7
    assert options.items_of("auto", "mps") == 32


def test_a_message_without_numbers_is_understood() -> None:
    found = memory_error(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "cuda:0", "Do this")
    assert str(found) == "the memory of cuda:0 is full. Do this."


def test_a_gpu_serves_one_process(
    gpus: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    gpus(1)
    arguments = ["regard", "serve", "--device", "cuda", "--workers", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "one process uses a GPU. Set workers to 1" in capsys.readouterr().err
