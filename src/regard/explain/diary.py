"""The learning diary: fixed val pictures, and what the model said of them as it learned."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.explain.html import assets_html, picture_html, words_html
from regard.types import Grid


@dataclass(frozen=True)
class Said:
    """What was said of one picture.

    Attributes:
        key: the picture's name.
        pixels: (height, width, 3) uint8.
        grid: of the maps.
        words: the caption.
        alpha: (T, L).
    """

    key: str
    pixels: np.ndarray
    grid: Grid
    words: list[str]
    alpha: np.ndarray


class Diary:
    """One HTML page, written anew after each evaluation, and the JSON lines it is made of."""

    def __init__(self, path: Path, *, up_to_epoch: int) -> None:
        """Open a diary.

        Args:
            path: of the page; its entries lie beside it as `.jsonl`.
            up_to_epoch: entries of later epochs, which a killed run wrote and the resumed one
                writes again, are dropped; 0 begins a new diary.
        """
        self._path = path
        self._lines = path.with_suffix(".jsonl")
        self._entries: list[dict[str, Any]] = []
        if up_to_epoch > 0 and self._lines.exists():
            entries = [json.loads(line) for line in self._lines.read_text("utf-8").splitlines()]
            self._entries = [e for e in entries if e["epoch"] <= up_to_epoch]

    def add(self, epoch: int, scores: dict[str, float], said: list[Said]) -> None:
        """Add an evaluation and write the page and the entries."""
        captions = [
            {"key": s.key, "words": s.words, "alpha": np.round(s.alpha, 5).tolist()} for s in said
        ]
        self._entries = [e for e in self._entries if e["epoch"] != epoch]
        self._entries.append({"epoch": epoch, "scores": scores, "captions": captions})
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in self._entries]
        _write_whole(self._lines, "".join(lines))
        _write_whole(self._path, self._page(said))

    def _page(self, said: list[Said]) -> str:
        pictures = "".join(self._picture(s) for s in said)
        return (
            "<!doctype html><html lang='en'><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width'><title>Learning diary</title>"
            f"{assets_html()}<style>{_PAGE_STYLE}</style><h1>Learning diary</h1>"
            "<p>What the model said of the same val pictures after each epoch. Point at a word to "
            "see where the decoder looked: raw cells, one scale per caption, 1 = uniform.</p>"
            f"{self._table()}<main>{pictures}</main></html>"
        )

    def _table(self) -> str:
        names = list(self._entries[-1]["scores"])
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        rows = "".join(
            f"<tr><td>{e['epoch']}</td>"
            + "".join(f"<td>{e['scores'].get(n, float('nan')):.2f}</td>" for n in names)
            + "</tr>"
            for e in self._entries
        )
        return f"<table><tr><th>epoch</th>{head}</tr>{rows}</table>"

    def _picture(self, said: Said) -> str:
        rows: list[str] = []
        for entry in self._entries:
            for caption in entry["captions"]:
                if caption["key"] != said.key:
                    continue
                alpha = np.array(caption["alpha"], np.float32).reshape(-1, said.grid.cells)
                top = max(2.0, float(alpha.max(initial=0.0)) * alpha.shape[1])
                words = [
                    (word, row, f"epoch {entry['epoch']}, peak {row.max():.2f}")
                    for word, row in zip(caption["words"], alpha, strict=True)
                ]
                rows.append(f"<p><b>{entry['epoch']}</b> {words_html(words, top)}</p>")
        return (
            f"<section class='regard'><h2>{html.escape(said.key)}</h2>"
            f"{picture_html(said.pixels, said.grid)}<output></output>{''.join(rows)}</section>"
        )


_PAGE_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(22rem,1fr));gap:1rem}"
    "table{border-collapse:collapse}td,th{padding:.1rem .7rem;text-align:right}h2{font-size:1rem}"
)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    temporary.rename(path)
