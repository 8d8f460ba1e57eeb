"""Readers of the caption files of common data sets of clips.

- "msvd": `sents_train_lc_nopunc.txt` and the like, `vid1<TAB>caption`, with `youtube_mapping.txt`
  beside it (`-4wsuPCjDBc_5_15 vid1`). The split is in the file's name; the folder of the files
  stands for all of them.
- "msvd_csv": the corpus as published, with the columns VideoID, Start, End, Language and
  Description. English captions of any Source are read. If `youtube_mapping.txt` lies beside the
  file, the split is the official one by number (1200, 100, 670), and "unused" for clips that it
  does not name; else there is none.
- "msrvtt": MSR-VTT's JSON of `videos` and `sentences`.
- "clips": a JSON list of {file, split, captions} or {file, split, caption}, also of pictures.

Captions name a clip without its suffix; the suffix is that of the file in the folder of clips.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from regard.data.caption_records import rows_of
from regard.data.dataset import UNUSED, Entry, LineFault, Row, numbered_lines
from regard.errors import DatasetError
from regard.types import MEDIA
from regard.util.safe_io import check_columns, csv_records, json_of

_SENTENCES = "sents_*_lc_nopunc.txt"
_MAPPING = "youtube_mapping.txt"
_FOLDERS = ("clips", "YouTubeClips", "videos")  # in which clips lie beside their captions
_LAST = (("train", 1200), ("val", 1300), ("test", 1970))  # MSVD's splits by their last number


def kind_of_clips(path: Path, text: str) -> str | None:
    """Return the kind of a file (or of a folder, without text), or None if it is unknown."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return "msvd" if any(path.glob(_SENTENCES)) else None
    if suffix == ".json":
        if text.lstrip().startswith("["):
            return "clips"
        return "msrvtt" if '"video_id"' in text and '"sentences"' in text else None
    if suffix == ".csv" and {"VideoID", "Description"} <= set(re.split(r"\W", text[:500])):
        return "msvd_csv"
    return "msvd" if re.match(r"vid\d+\t", text) else None


def folder_of_clips(path: Path) -> Path:
    """Return the default folder of the clips: `clips` or the like, or that of the captions."""
    beside = path if path.is_dir() else path.parent
    return next((beside / name for name in _FOLDERS if (beside / name).is_dir()), beside)


class _Clips:
    """Maps the names of clips to the names of their files in a folder."""

    def __init__(self, folder: Path, usual: str) -> None:
        self._usual = usual
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        self._names = {f.stem: f.name for f in files if f.suffix.lower() in MEDIA["video"].suffixes}

    def file(self, name: str) -> str:
        """Return the file name of a clip; with the usual suffix if the file does not exist."""
        return self._names.get(name, name + self._usual)


def _msvd(text: str, path: Path, folder: Path) -> Iterator[Entry]:
    if path.is_dir():
        files = {split: path / _SENTENCES.replace("*", split) for split, _ in _LAST}
        for file in files.values():
            if file.is_file():
                yield from _msvd(file.read_bytes().decode("utf-8-sig"), file, folder)
        return
    names = {vid: name for name, vid in _mapping(path.parent).items()}
    if not names:
        raise DatasetError(
            f"{path} names clips by number, but {path.parent / _MAPPING}, which maps the numbers "
            "to files, does not exist. Put it there."
        )
    clips = _Clips(folder, ".avi")
    named = re.search(r"train|val|test", path.name)
    split = named.group() if named else ""
    for number, line in numbered_lines(text):
        vid, tab, caption = line.partition("\t")
        where = f"{path.name} line {number}"
        if not tab:
            yield LineFault(where, f"no tab between clip and caption in {line!r}")
        elif vid not in names:
            yield LineFault(where, f"{_MAPPING} does not name {vid!r}")
        else:
            yield Row(clips.file(names[vid]), caption, split)


def _mapping(folder: Path) -> dict[str, str]:
    """Return the number ("vid1") of each clip by its name; empty without a mapping file."""
    path = folder / _MAPPING
    if not path.is_file():
        return {}
    pairs = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise DatasetError(
            f"{path} is not a mapping; expected lines such as `-4wsuPCjDBc_5_15 vid1`."
        )
    return {name: vid for name, vid in pairs}


def _msvd_csv(text: str, path: Path, folder: Path) -> Iterator[Entry]:
    numbers = _mapping(path.parent)
    clips = _Clips(folder, ".avi")
    wanted = ["VideoID", "Start", "End", "Language", "Description"]
    names: list[str] = []

    def like_a_row(cells: list[str]) -> bool:
        return len(cells) == len(names)

    for number, cells in csv_records(io.StringIO(text, newline=""), like_a_row=like_a_row):
        if isinstance(cells, str):
            yield LineFault(number, cells)
            continue
        if not names:
            names = cells
            check_columns(names)
            if not set(wanted) <= set(names):
                yield LineFault(1, f"the columns are {names}; expected {', '.join(wanted)}")
                return
            continue
        if len(cells) < len(names):
            yield LineFault(number, "fewer fields than columns")
            continue
        name, start, end, language, caption = (cells[names.index(column)] for column in wanted)
        if language.strip() == "English":
            clip = f"{name}_{start}_{end}"
            yield Row(clips.file(clip), caption, _official_split(numbers, clip))


def _official_split(numbers: dict[str, str], clip: str) -> str:
    if not numbers:
        return ""
    if clip not in numbers:
        return UNUSED
    number = int(numbers[clip].removeprefix("vid"))
    return next((split for split, last in _LAST if number <= last), UNUSED)


def _msrvtt(text: str, path: Path, folder: Path) -> Iterator[Entry]:
    values = json_of(text)
    clips = _Clips(folder, ".mp4")
    files: dict[str, tuple[str, str]] = {}
    for item in values["videos"]:
        file = clips.file(item["video_id"])
        yield "clip", item["video_id"], file
        files.setdefault(item["video_id"], (file, item.get("split", "")))
    captioned: set[str] = set()
    for number, sentence in enumerate(values["sentences"], start=1):
        name = sentence["video_id"]
        if name not in files:
            yield LineFault(f"sentence {number}", f"its video_id {name!r} is that of no video")
            continue
        captioned.add(name)
        file, split = files[name]
        yield Row(file, sentence["caption"], split)
        if "sen_id" in sentence:
            yield "caption id", str(sentence["sen_id"]), file
    yield from (Row(file, "", split) for n, (file, split) in files.items() if n not in captioned)


def _list(text: str, path: Path, folder: Path) -> Iterator[Entry]:
    for number, entry in enumerate(json_of(text), start=1):
        found = list(rows_of(entry, f"entry {number}"))
        if isinstance(found[0], Row) and any(isinstance(v, list) for v in entry.values()):
            yield "clip", found[0].file, found[0].file  # one entry for all its captions
        yield from found


CLIP_READERS = {"msvd": _msvd, "msvd_csv": _msvd_csv, "msrvtt": _msrvtt, "clips": _list}
"""By kind: (text, path of the captions, folder of the clips) to entries."""
