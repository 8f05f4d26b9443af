"""What the values or colours of label images mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mic_det.data.errors import DataError

#: Id of pixels without a class, in everything that a model sees.
IGNORE = 255
#: Classes that a domain may have: ids 0..253, as 254 and 255 have a meaning of their own.
MAX_CLASSES = 254
#: Words of a ``label_map``: pixels without a class, and the key for all values that are not listed.
IGNORE_WORD, OTHER_WORD = "ignore", "other"

Colour = tuple[int, int, int]
Key = int | Colour


@dataclass(frozen=True)
class LabelCoding:
    """Classes of label images, by value or by colour.

    Attributes:
        meanings: value (0..65535) or RGB colour, and name of the class; None: ignored.
        classes: names of the classes that are kept, in the order of their ids. Pixels of others
            that ``meanings`` names are ignored.
        other_ignored: whether values that ``meanings`` lacks are ignored; they are an error else.
        by_default: whether nobody gave a ``label_map``, so that values are the classes' ids.
    """

    meanings: tuple[tuple[Key, str | None], ...]
    classes: tuple[str, ...]
    other_ignored: bool = False
    by_default: bool = False

    @property
    def coloured(self) -> bool:
        """Whether label images are told by colours."""
        return bool(self.meanings) and not isinstance(self.meanings[0][0], int)

    def left_out(self) -> list[str]:
        """Classes of the label images that are not kept."""
        named = dict.fromkeys(name for _, name in self.meanings if name is not None)
        return [name for name in named if name not in self.classes]


def plain_coding(classes: Sequence[str], ignored: int = IGNORE) -> LabelCoding:
    """Values 0, 1, ... are the classes in their order, ``ignored`` is no class."""
    meanings = [*enumerate(classes), (ignored, None)]
    return LabelCoding(tuple(meanings), tuple(classes), by_default=True)


def make_coding(
    domain: str,
    classes: Sequence[str] | None,
    label_map: Mapping[object, object] | None,
    aliases: Mapping[str, str] | None = None,
) -> LabelCoding:
    """The coding that a user describes.

    Args:
        domain: its name, for messages.
        classes: names to keep, after aliases, in the order of their ids; None: all that
            ``label_map`` names, in its order. Checked already (`mic_det.data.domain.check_told`).
        label_map: from values 0..65535, or colours ("128, 64, 128", "#804080" or a tuple), to a
            class name or "ignore". The key "other" stands for all that are not listed and must be
            "ignore". None: values are positions in ``classes``, and 255 is ignored.
        aliases: what classes of ``label_map`` (or, without one, of ``classes``) are called here.

    Raises:
        DataError: if that is contradictory or misspelt; it names the domain and the key.
    """
    aliases = dict(aliases or {})
    where = f"Domain {domain!r}"
    if classes is not None and IGNORE_WORD in classes:
        raise DataError(
            f"{where}: classes: {IGNORE_WORD!r} is no class, it marks pixels without one. "
            "Leave it out."
        )
    if label_map is None:
        if classes is None:
            raise DataError(
                f"{where}: has labels, but neither classes nor label_map. Write classes: [NAME of "
                "value 0, NAME of value 1, …], or label_map: {VALUE: NAME, …}."
            )
        _check_aliases(where, aliases, classes)
        coding = plain_coding([aliases.get(name, name) for name in classes])
        twice = {name for name in coding.classes if coding.classes.count(name) > 1}
        if twice:
            raise DataError(
                f"{where}: aliases: make two classes {min(twice)!r}. To merge classes, write a "
                "label_map with that name for both values."
            )
        return _limited(where, coding)
    if not isinstance(label_map, Mapping) or not label_map:
        raise DataError(
            f"{where}: label_map: {label_map!r} is no mapping. Write {{VALUE: NAME, …}} with a "
            "class name or ignore for each value or colour."
        )
    given = dict(label_map)
    other_ignored = _takes_other(where, given)
    meanings = _meanings(where, given)
    names = list(dict.fromkeys(name for name in meanings.values() if name is not None))
    _check_aliases(where, aliases, names)
    meanings = {key: aliases.get(name, name) for key, name in meanings.items()}
    names = list(dict.fromkeys(name for name in meanings.values() if name is not None))
    if not names:
        raise DataError(f"{where}: label_map: names no class at all. Name one for some values.")
    absent = [name for name in classes or () if name not in names]
    if absent:
        raise DataError(
            f"{where}: classes: label_map has no class {absent[0]!r}{_close(absent[0], names)}; it "
            f"has {', '.join(map(repr, names))}. Correct the name, or add its value."
        )
    kept = tuple(classes if classes is not None else names)
    return _limited(where, LabelCoding(tuple(meanings.items()), kept, other_ignored))


def _limited(where: str, coding: LabelCoding) -> LabelCoding:
    if len(coding.classes) > MAX_CLASSES:
        raise DataError(
            f"{where}: classes: {len(coding.classes)} classes, more than {MAX_CLASSES}. Keep "
            "fewer with classes."
        )
    return coding


def _takes_other(where: str, given: dict[object, object]) -> bool:
    """Take the entry for all other values out of the mapping; whether it is there."""
    if OTHER_WORD not in given:
        return False
    if given.pop(OTHER_WORD) != IGNORE_WORD:
        raise DataError(
            f"{where}: label_map: {OTHER_WORD}: only {IGNORE_WORD!r} can be said of all other "
            f"values. Write {OTHER_WORD}: {IGNORE_WORD}, and list the values of each class."
        )
    return True


def _meanings(where: str, given: Mapping[object, object]) -> dict[Key, str | None]:
    meanings: dict[Key, str | None] = {}
    for text, name in given.items():
        key = _key(where, text, name)
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{where}: label_map: {text}: {name!r} is no class name. Write a name (in quotes "
                f"where YAML takes it for something else, as no or 1), or {IGNORE_WORD}."
            )
        if key in meanings:
            raise DataError(
                f"{where}: label_map: {text!r} is given twice, written in two ways. Keep one."
            )
        meanings[key] = None if name == IGNORE_WORD else name
    if len({isinstance(key, int) for key in meanings}) > 1:
        raise DataError(
            f"{where}: label_map: mixes values and colours. A label image has the one or the "
            "other: write all keys alike."
        )
    return meanings


def _key(where: str, text: object, name: object) -> Key:
    """A value or colour from what stands in the file."""
    if isinstance(text, int) and not isinstance(text, bool):
        if 0 <= text <= 65535:
            return text
        raise DataError(
            f"{where}: label_map: {text}: values of label images are 0..65535. Correct it "
            "(-1 is stored as 255 in 8-bit files)."
        )
    colour = _colour(text)
    if colour is None and isinstance(name, int) and not isinstance(name, bool):
        raise DataError(
            f"{where}: label_map: {text!r}: {name}: is the wrong way round. Write {name}: {text}."
        )
    if colour is None:
        raise DataError(
            f"{where}: label_map: {text!r} is neither a value (0..65535) nor a colour. Write "
            "colours as '128, 64, 128' or '#804080', in quotes, each part 0..255."
        )
    return colour


def _colour(text: object) -> Colour | None:
    parts: Iterable[object] = ()
    if isinstance(text, str) and text.startswith("#") and len(text) == 7:
        parts = [text[i : i + 2] for i in (1, 3, 5)]
        base = 16
    else:
        parts = text.split(",") if isinstance(text, str) else text
        base = 10
    if not isinstance(parts, (list, tuple)) or len(parts) != 3:
        return None
    try:
        found = tuple(int(part, base) if isinstance(part, str) else int(part) for part in parts)
    except (TypeError, ValueError):
        return None
    return found if all(0 <= part <= 255 for part in found) else None


def _check_aliases(where: str, aliases: Mapping[str, str], names: Sequence[str]) -> None:
    for name, here in aliases.items():
        if name not in names:
            raise DataError(
                f"{where}: aliases: there is no class {name!r}{_close(name, names)} to rename; "
                f"there are {', '.join(map(repr, names))}. Correct the name or remove the alias."
            )
        if here == IGNORE_WORD:
            raise DataError(
                f"{where}: aliases: {name}: {IGNORE_WORD!r} is no class. Leave the class out of "
                "classes, or write its values as ignore in label_map."
            )


def _close(name: str, known: Sequence[str]) -> str:
    by_lower = {each.lower(): each for each in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[match[0]]!r}?)" if match else ""
