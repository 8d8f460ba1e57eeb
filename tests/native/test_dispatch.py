"""The table of implementations: what each case takes, and that importing it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from regard.native import dispatch
from regard.native.cpp_library import library
from regard.native.dispatch import TABLE, Case

needs_compiler = pytest.mark.skipif(library("float32") is None, reason="no C++ compiler")


def test_importing_the_table_does_not_import_torch() -> None:
    code = "import sys, regard.native.dispatch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_computation_can_be_done_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGARD_KERNELS", "plain")
    for case in (
        Case(),
        Case(device="meta", dtypes=("float16", "int8"), autocast=True, known_scores=False),
        Case(dtypes=("float64",), cells=10**6, words=10**6, items=10**6, exportable=False),
    ):
        for row in TABLE:
            assert row.choose(case) in {i.name for i in row.implementations}
            assert not row.implementations[-1].obstacle(case)


@needs_compiler
@pytest.mark.parametrize(
    ("computation", "case", "chosen"),
    [
        (dispatch.KEYS, Case(), "C++"),
        (dispatch.KEYS, Case(dtypes=("float32", "float64")), "torch"),
        (dispatch.KEYS, Case(autocast=True), "torch"),
        (dispatch.KEYS, Case(dtypes=("bfloat16",)), "torch"),
        (dispatch.VOCABULARY_LOSS, Case(dtypes=("bfloat16",), autocast=True), "C++"),
        (dispatch.TEACHER_FORCING, Case(known_scores=False), "torch"),
        (dispatch.TORCH_STEP, Case(device="cuda"), "torch"),
        (dispatch.ADDITIVE_SCORES, Case(cells=512), "torch"),
        (dispatch.ADDITIVE_SCORES, Case(cells=513), "torch in blocks"),
        (dispatch.ENCODER, Case(exportable=False), "torch"),
        (dispatch.ENCODER, Case(), "onnxruntime"),
        (dispatch.ONNX_STEP, Case(items=2000), "C++"),
        (dispatch.ONNX_STEP, Case(items=2000, known_scores=False), "onnxruntime"),
    ],
)
def test_cases(computation: dispatch.Computation, case: Case, chosen: str) -> None:
    assert computation.choose(case) == chosen


def test_the_report_gives_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGARD_KERNELS", "plain")
    rows = {row["computation"]: row for row in dispatch.report(Case())}
    assert len(rows) == len(TABLE)
    keys = rows["attention keys"]
    assert keys["implementation"] == "torch"
    assert keys["others"] == {"C++": "REGARD_KERNELS is plain"}
    for row in rows.values():
        assert all(row["others"].values())


def test_what_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda _: None)
    rows = {row["computation"]: row for row in dispatch.report(dispatch.this_machine())}
    assert rows["vocabulary loss"]["implementation"] is None
    assert rows["vocabulary loss"]["others"]["C++"] == "torch is not installed"
    assert rows["strongest words of a compiled step"]["implementation"] is not None
