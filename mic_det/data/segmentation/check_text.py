"""A `SegmentationReport` for people, and for programs."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from mic_det.data.check_text import problem_list
from mic_det.data.segmentation.check import SegmentationReport


def check_text(report: SegmentationReport) -> str:
    """The short report: what there is, a line for each class, and all problems."""
    return "\n".join([*_content(report), *problem_list(report.errors, report.warnings)])


def stats_text(report: SegmentationReport) -> str:
    """Figures for people."""
    sizes = [f"  {w}x{h}: {count} images" for (w, h), count in report.sizes.most_common(10)]
    head, *table = _content(report)
    return "\n".join([head, *sizes, *table, *(f"  error: {error}" for error in report.errors)])


def _content(report: SegmentationReport) -> list[str]:
    common = [f"{w}x{h}" for (w, h), _ in report.sizes.most_common(3)]
    sizes = f" ({', '.join(common)}{', ...' * (len(report.sizes) > 3)})" if common else ""
    lines = [f"{report.name}: {report.images} images{sizes}, {report.labelled_images} with labels"]
    total = int(report.pixels.sum()) + report.ignored
    if total:
        lines[0] += f"; {100 * report.ignored / total:.1f} % of the pixels have no class"
        lines.append(_class_table(report))
    if report.left_out:
        names = ", ".join(report.left_out)
        lines.append(f"ignored, as the domain's classes do not name them: {names}")
    return lines


def _class_table(report: SegmentationReport) -> str:
    total = max(1, int(report.pixels.sum()))
    rows = [
        [number, name, f"{100 * pixels / total:.2f}", int(images)]
        for number, (name, pixels, images) in enumerate(
            zip(report.classes, report.pixels, report.images_with, strict=True)
        )
    ]
    headers = ["id", "class", "% of labelled pixels", "images"]
    aligned = ("right", "left", "right", "right")
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=aligned)


def statistics(report: SegmentationReport) -> dict[str, Any]:
    """All figures as plain values, for json."""
    return {
        "name": report.name,
        "images": report.images,
        "labelled_images": report.labelled_images,
        "image_sizes": [[w, h, count] for (w, h), count in report.sizes.most_common()],
        "classes": [
            {"name": name, "pixels": int(pixels), "images": int(images)}
            for name, pixels, images in zip(
                report.classes, report.pixels, report.images_with, strict=True
            )
        ],
        "ignored_pixels": report.ignored,
        "left_out": report.left_out,
        "errors": report.errors,
        "warnings": report.warnings,
    }
