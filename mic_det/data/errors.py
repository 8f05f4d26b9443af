"""Errors about data, made for people: which file, which record, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mic_det.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Faults that one message names in full.
_NAMED = 20
# Characters of a value that a message quotes.
_LONGEST = 80


class DataError(UserError, ValueError):
    """Data on disk are missing or broken. The message names the file, the field and the remedy."""


@dataclass
class Problem:
    """One kind of fault in a file, and how often it occurs.

    Attributes:
        what: field and fault, e.g. ``images[].id occurs twice``.
        value: the first value found to be wrong, as text.
        record: where that is, e.g. ``annotations[3], id 7``.
        remedy: what to do, a sentence.
        count: occurrences.
        is_error: whether the data cannot be used; otherwise they are used as the text says.
    """

    what: str
    value: str
    record: str
    remedy: str
    count: int = 1
    is_error: bool = True

    def __str__(self) -> str:
        where = f" ({self.record})" if self.record else ""
        times = f"{self.count} time{'s' * (self.count > 1)}"
        return f"{self.what}: {times}, first {self.value}{where}. {self.remedy}"


class Problems:
    """Faults by kind, in the order in which they were found."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Problem] = {}

    def add(
        self, what: str, value: object, record: str, remedy: str, *, is_error: bool = True
    ) -> None:
        """Count a fault; the first of each kind is the example."""
        known = self._by_kind.get(what)
        if known is None:
            text = repr(value)
            text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
            self._by_kind[what] = Problem(what, text, record, remedy, is_error=is_error)
        else:
            known.count += 1

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._by_kind.values())

    def has_errors(self) -> bool:
        return any(problem.is_error for problem in self)


def problem_lines(problems: Iterable[Problem]) -> str:
    """Indented lines, one for each kind."""
    return "\n".join(f"  {problem}" for problem in problems)


def gather(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``function`` of each item; all that is broken in one error rather than the first alone.

    Raises:
        DataError: if the function raised one for any of them, with a line for each.
    """
    results, faults = [], []
    for item in items:
        try:
            results.append(function(item))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(listed(faults))
    return results


def listed(faults: list[str]) -> str:
    """The first faults, a line each, and how many more there are."""
    more = len(faults) - _NAMED
    return "\n".join(faults[:_NAMED] + ([f"... and {more} more like these"] if more > 0 else []))


def link_hint(path: Path) -> str:
    """What a file holds instead of data, where its first bytes tell; empty otherwise."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return ""
    if not head:
        return "; it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "; it is a Git LFS pointer: run `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "; it is a web page: the download went wrong"
    return ""
