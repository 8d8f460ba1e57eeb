"""The Java programs of pycocoevalcap: the PTB tokenizer, METEOR 1.5, SPICE.

They are run directly, not through pycocoevalcap's wrappers: those write into the package's
folder, print on standard error, and use the machine's locale, in which METEOR may print a decimal
comma. Each function raises `JavaUnavailable` with the reason why it cannot run. No program is
waited for without end.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_LOCALE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")


_START_SECONDS = 20.0  # for `java -version`
_SECONDS = 300.0  # for a program to load its tables, which a slow disk delays
_PER_CAPTION = {"tokenizer": 0.1, "METEOR": 1.0, "SPICE": 20.0}  # seconds more; SPICE parses


class JavaUnavailable(Exception):
    """A Java scorer cannot run here; the message is the reason."""


def ptb_tokenize_java(lines: Sequence[str]) -> list[list[str]]:
    """Cut lines with the reference's PTBTokenizer, lower-cased, punctuation kept.

    Args:
        lines: one caption each, without any line break.

    Returns:
        The tokens of each line.

    Raises:
        JavaUnavailable: Java or the tokenizer's file is missing, or it failed.
    """
    jar = _package_file("tokenizer/stanford-corenlp-3.4.1.jar")
    command = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    text = "".join(line + "\n" for line in lines)
    seconds = _SECONDS + _PER_CAPTION["tokenizer"] * len(lines)
    printed = _run([*command, "-preserveLines", "-lowerCase"], text, seconds)
    found = printed.split("\n")[:-1]
    if len(found) != len(lines):
        raise JavaUnavailable(f"PTBTokenizer printed {len(found)} lines for {len(lines)} captions")
    return [line.split(" ") if line else [] for line in (f.strip() for f in found)]


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the corpus METEOR 1.5 (English, with the aggregation of coco-caption), 0 to 1.

    Args:
        candidates: one tokenised caption per picture.
        references: the tokenised references of each picture.

    Raises:
        JavaUnavailable: Java or METEOR's files are missing, or it failed.
    """
    jar = _package_file("meteor/meteor-1.5.jar")
    _package_file("meteor/data/paraphrase-en.gz")
    command = [_java(), *_LOCALE, "-Xmx2G", "-jar", str(jar)]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
                             "stderr": subprocess.DEVNULL}  # fmt: skip
    seconds = _SECONDS + _PER_CAPTION["METEOR"] * len(candidates)
    try:
        with (
            subprocess.Popen(
                command,
                cwd=jar.parent,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                **pipes,
            ) as process,
            _ended_after(seconds, process),
        ):
            statistics = [
                _ask(process, "SCORE", *refs, candidate)
                for candidate, refs in zip(candidates, references, strict=True)
            ]
            # EVAL answers with each picture's score, then the corpus's.
            answers = [_ask(process, "EVAL", *statistics), *(_answer(process) for _ in candidates)]
            _pipe(process.stdin).close()
        return float(answers[-1])
    except subprocess.TimeoutExpired as error:
        raise JavaUnavailable(_no_answer(error.timeout)) from error
    except (OSError, ValueError) as error:
        raise JavaUnavailable(f"METEOR failed: {error}") from error


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the mean SPICE F-score over pictures, 0 to 1.

    Raises:
        JavaUnavailable: Java or SPICE's files (CoreNLP 3.6.0 must be downloaded separately) are
            missing, or it failed.
    """
    jar = _package_file("spice/spice-1.0.jar")
    for library in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        _package_file(f"spice/lib/{library}")
    pictures = [
        {"image_id": number, "test": candidate, "refs": list(refs)}
        for number, (candidate, refs) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "in.json"), Path(folder, "out.json")
        asked.write_text(json.dumps(pictures), encoding="utf-8")
        command = ["-Xmx8G", "-jar", str(jar), str(asked), "-out", str(answered)]
        seconds = _SECONDS + _PER_CAPTION["SPICE"] * len(pictures)
        _run([*command, "-subset", "-silent"], "", seconds)
        found = json.loads(answered.read_text(encoding="utf-8"))
    return sum(picture["scores"]["All"]["f"] for picture in found) / len(found)


def spice_installed() -> bool:
    """Return whether SPICE's files and Java are installed."""
    try:
        _java()
        _package_file("spice/lib/stanford-corenlp-3.6.0-models.jar")
    except JavaUnavailable:
        return False
    return True


def _java() -> str:
    """Return the path of a Java that starts."""
    path = shutil.which("java")
    if path is None:
        raise JavaUnavailable("no `java` on the PATH; install a Java runtime (8 or later)")
    try:
        _communicate([path, "-version"], b"", _START_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise JavaUnavailable(_no_answer(error.timeout)) from error
    except OSError as error:
        raise JavaUnavailable(f"Java failed: {error}") from error
    return path


def _no_answer(seconds: float) -> str:
    return (
        f"`java` gave no answer in {seconds:g} seconds and was ended; try `java -version`, or take "
        "it off the PATH"
    )


def _communicate(command: list[str], given: bytes, seconds: float) -> tuple[int, bytes, bytes]:
    """Run a program; return its exit status and what it printed.

    Raises:
        OSError: it cannot be started.
        TimeoutExpired: it did not end in time; it and its children are killed.
    """
    with (
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process,
        _ended_after(seconds, process),
    ):
        printed, complaint = process.communicate(given)
    return process.returncode, printed, complaint


@contextmanager
def _ended_after(seconds: float, process: subprocess.Popen[Any]) -> Generator[None]:
    """Kill a program and its children after so many seconds, and if the block raises.

    Its own session makes them one group: a child that lives on would keep the pipes open.

    Raises:
        TimeoutExpired: it was killed for the time.
    """
    late = threading.Event()

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def end_late() -> None:
        late.set()
        end()

    timer = threading.Timer(seconds, end_late)
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException:
        end()
        if late.is_set():
            raise subprocess.TimeoutExpired(process.args, seconds) from None
        raise
    finally:
        timer.cancel()
    if late.is_set():
        raise subprocess.TimeoutExpired(process.args, seconds)


def _package_file(name: str) -> Path:
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise JavaUnavailable(
            "the package 'pycocoevalcap' is not installed; pip install 'regard[metrics]'"
        )
    path = Path(next(iter(spec.submodule_search_locations)), name)
    if not path.is_file():
        raise JavaUnavailable(f"pycocoevalcap has no {name}")
    return path


def _run(arguments: list[str], text: str, seconds: float) -> str:
    command = [_java(), *_LOCALE, *arguments]
    given = text.encode(errors="replace")  # a lone surrogate cannot be encoded as it is
    try:
        status, printed, complaint = _communicate(command, given, seconds)
        if status:
            last = complaint.decode(errors="replace").strip().splitlines()[-1:]
            raise JavaUnavailable(f"Java exited with {status}: {' '.join(last)}")
        return printed.decode()
    except subprocess.TimeoutExpired as error:
        raise JavaUnavailable(_no_answer(error.timeout)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise JavaUnavailable(f"Java failed: {error}") from error


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # both ends are opened as pipes above
    return stream


def _ask(process: subprocess.Popen[str], *fields: str) -> str:
    pipe = _pipe(process.stdin)
    pipe.write(" ||| ".join(fields) + "\n")
    pipe.flush()
    return _answer(process)


def _answer(process: subprocess.Popen[str]) -> str:
    line = _pipe(process.stdout).readline().strip()
    if not line:
        raise ValueError("it stopped without an answer")
    return line
