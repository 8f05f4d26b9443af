"""Bringing all labelled sets to the classes of the model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from mic_det.data.catalog import bring_to, is_domain
from mic_det.data.errors import DataError
from mic_det.data.segmentation.records import own_classes
from mic_det.data.segmentation.registration import segmentation_metadata


def fit_seg_classes(sources: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """The classes to train, those of the first source, and all domains brought to them by name.

    A class of the model that a domain lacks is fine: no pixel has it there. No file is read.

    Args:
        sources: labelled training domains, at least one.
        others: domains to evaluate on.

    Raises:
        DataError: if a domain has no labels, or keeps a class that is none of the model's.
    """
    first = sources[0]
    classes = own_classes(first)
    for name in dict.fromkeys((*sources, *others)):
        found = own_classes(name)
        if not is_domain(name) and name in DatasetCatalog:
            if found != classes:
                raise DataError(
                    f"{name} has the classes {list(found)}, {first} has {list(classes)}: they must "
                    "be the same in the same order. Register it with "
                    "mic_det.data.register_segmentation: then classes are matched by name."
                )
            continue
        _check_fits(name, found, classes)
        bring_to(name, classes)
        MetadataCatalog.get(name).__dict__.update(segmentation_metadata(classes))
    return list(classes)


def _check_fits(name: str, found: Sequence[str], classes: Sequence[str]) -> None:
    strange = [each for each in found if each not in classes]
    if not strange:
        return
    kept = ", ".join(each for each in found if each in classes)
    close = difflib.get_close_matches(strange[0], classes, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise DataError(
        f"Domain {name!r}: {', '.join(map(repr, strange))}: no class of the model{hint}, which has "
        f"{', '.join(map(repr, classes))}. Where this domain is registered, say what it is called "
        f"there (aliases: {{{strange[0]}: {close[0] if close else classes[0]}}}), or list the "
        f"classes to keep and so leave it out (classes: [{kept}])."
    )
