"""The Java programs of pycocoevalcap: the PTB tokenizer, METEOR 1.5, SPICE.

They are run directly, not through pycocoevalcap's wrappers: those write into the package's
folder, print on standard error, and use the machine's locale, in which METEOR may print a decimal
comma. Each function raises `JavaUnavailable` with the reason why it cannot run.
"""

import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

_LOCALE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")


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
    printed = _run([*command, "-preserveLines", "-lowerCase"], text)
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
    try:
        with subprocess.Popen(
            command, cwd=jar.parent, encoding="utf-8", errors="replace", **pipes
        ) as process:
            statistics = [
                _ask(process, "SCORE", *refs, candidate)
                for candidate, refs in zip(candidates, references, strict=True)
            ]
            # EVAL answers with each picture's score, then the corpus's.
            answers = [_ask(process, "EVAL", *statistics), *(_answer(process) for _ in candidates)]
            _pipe(process.stdin).close()
        return float(answers[-1])
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
        _run([*command, "-subset", "-silent"], "")
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
    path = shutil.which("java")
    if path is None:
        raise JavaUnavailable("no `java` on the PATH; install a Java runtime (8 or later)")
    return path


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


def _run(arguments: list[str], text: str) -> str:
    command = [_java(), *_LOCALE, *arguments]
    given = text.encode(errors="replace")  # a lone surrogate cannot be encoded as it is
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=True)
        return done.stdout.decode()
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise JavaUnavailable(f"Java exited with {error.returncode}: {' '.join(last)}") from error
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
