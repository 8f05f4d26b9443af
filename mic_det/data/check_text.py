"""A `DomainReport` for people, and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from mic_det.data.check import DomainReport

#: Sides in pixels below which COCO calls a box small and medium.
SMALL, MEDIUM = 32, 96
# Problems that are printed; the others are counted.
_SHOWN = 20


def check_text(report: DomainReport) -> str:
    """The short report: what there is, a line for each class, and all problems."""
    lines = [headline(report)]
    if report.sides:
        lines.append(class_table(report))
    if report.left_out:
        counts = ", ".join(f"{name} ({count})" for name, count in sorted(report.left_out.items()))
        lines.append(f"left out, as the domain's classes do not name them: {counts}")
    return "\n".join(lines + problem_list(report.errors, report.warnings))


def problem_list(errors: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """Lines on all problems."""
    lines = []
    for title, problems in (("error", errors), ("warning", warnings)):
        if problems:
            lines.append(f"{len(problems)} {title}{'s' * (len(problems) > 1)}:")
            lines += ["  " + text.replace("\n", "\n  ") for text in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"  ... and {len(problems) - _SHOWN} more")
    return lines if errors else [*lines, "no errors"]


def stats_text(report: DomainReport) -> str:
    """Figures for people."""
    lines = [headline(report)]
    lines += [f"  {w}x{h}: {count} images" for (w, h), count in report.sizes.most_common(10)]
    if report.boxes_per_image:
        mean = sum(report.boxes_per_image) / len(report.boxes_per_image)
        most = max(report.boxes_per_image)
        lines.append(f"  boxes an image: {mean:.1f} on average, {most} at most")
        lines.append(class_table(report))
    return "\n".join(lines + [f"  error: {error}" for error in report.errors])


def headline(report: DomainReport) -> str:
    """Images and boxes in one line."""
    common = [f"{w}x{h}" for (w, h), _ in report.sizes.most_common(3)]
    sizes = f" ({', '.join(common)}{', ...' * (len(report.sizes) > 3)})" if common else ""
    text = f"{report.name}: {report.images} images{sizes}"
    if report.images_with and not report.sides:
        counts = report.images_with.values()
        span = f"{min(counts)} to {max(counts)} images each"
        return f"{text}, in folders of {len(report.classes)} classes, {span}"
    if not report.labelled:
        return text + ", no annotations: an unlabelled target"
    if not report.sides:
        return text
    empty = sum(not count for count in report.boxes_per_image)
    return (
        f"{text}, {report.labelled_images} in the annotations, {empty} of them without a box; "
        f"{sum(report.boxes.values())} boxes"
    )


def class_table(report: DomainReport) -> str:
    """Boxes, images and box sizes by class; a size is the side of a square of the box's area."""
    rows = []
    for name, sides in report.sides.items():
        row: list[Any] = [name, len(sides), report.images_with[name]]
        if len(sides):
            low, middle, high = np.quantile(sides, (0.05, 0.5, 0.95))
            small = 100 * np.mean(sides < SMALL)
            large = 100 * np.mean(sides >= MEDIUM)
            row += [f"{middle:.0f}", f"{low:.0f}..{high:.0f}"]
            row += [f"{small:.0f}", f"{100 - small - large:.0f}", f"{large:.0f}"]
        rows.append(row + [""] * (8 - len(row)))
    headers = ["class", "boxes", "images", "median side", "5..95 %"]
    headers += [f"% <{SMALL} px", f"% <{MEDIUM}", f"% >={MEDIUM}"]
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=aligned)


def statistics(report: DomainReport) -> dict[str, Any]:
    """All figures as plain values, for json."""
    quantiles = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    return {
        "name": report.name,
        "images": report.images,
        "labelled_images": report.labelled_images,
        "images_without_boxes": sum(not count for count in report.boxes_per_image),
        "image_sizes": [[w, h, count] for (w, h), count in report.sizes.most_common()],
        "boxes_per_image": {
            "mean": float(np.mean(report.boxes_per_image)) if report.boxes_per_image else 0.0,
            "max": max(report.boxes_per_image, default=0),
        },
        "classes": [
            {
                "name": name,
                "boxes": len(sides),
                "images": report.images_with[name],
                "side_quantiles": {
                    f"{q:g}": round(float(value), 1)
                    for q, value in zip(quantiles, np.quantile(sides, quantiles), strict=True)
                }
                if len(sides)
                else {},
            }
            for name, sides in report.sides.items()
        ],
        "left_out": report.left_out,
        "errors": report.errors,
        "warnings": report.warnings,
    }
