"""Pieces of HTML that all sections are made of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def grid(cards: Sequence[str], note: str) -> str:
    if not cards:
        return problem_list(["None of these runs has curves."])
    return f'<p class="note">{escape(note)}</p><div class="cards">{"".join(cards)}</div>'


def problem_list(problems: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(each)}</li>" for each in problems)
    return f'<ul class="problems">{items}</ul>' if items else ""
