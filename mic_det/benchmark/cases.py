"""The settings that are measured: networks, image sizes, batches and precisions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from mic_det.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Full SADA: five image levels, four instance levels, consistency.
FULL = ("MODEL.SADA.ENABLED", "True")
# As light as the heads of other frameworks: one image level, one classifier for all proposals.
LIGHT = (
    *FULL,
    *("MODEL.SADA.IMAGE_LEVELS", "('p4',)"),
    *("MODEL.SADA.INSTANCE_PER_LEVEL", "False"),
    *("MODEL.SADA.CONSISTENCY_WEIGHT", "0.0"),
    *("MODEL.SADA.IMAGE_CHANNELS", "256"),
)


@dataclass(frozen=True)
class Case:
    """One setting.

    Args:
        name: what results are filed under.
        config: file in ``configs``.
        height, width: of all images, in pixels.
        source, target: images of a batch.
        device: "cpu" or "cuda".
        amp: "", "bfloat16" or "float16".
        heads: overrides that choose the domain heads.
        pseudo_boxes: boxes that the teacher is made to find in each target image.
        quick: whether ``--quick`` measures it.
    """

    name: str
    config: str
    height: int
    width: int
    source: int = 1
    target: int = 1
    device: str = "cpu"
    amp: str = ""
    heads: tuple[str, ...] = FULL
    pseudo_boxes: int = 6
    quick: bool = False

    def cfg(self, extra: tuple[str, ...] = ()) -> CfgNode:
        """Its configuration: random weights, and nothing that depends on data."""
        overrides = [
            *("MODEL.WEIGHTS", "", "MODEL.DEVICE", self.device),
            # Weights stay where they are: random images teach nothing but to diverge.
            *("SOLVER.BASE_LR", "0.0"),
            *("SOLVER.IMS_PER_BATCH", str(self.source)),
            *("SOLVER.TARGET_IMS_PER_BATCH", str(self.target)),
            *("MODEL.MIC.DOUBT_THRESH", "1.0", "MODEL.MIC.SCORE_THRESH", "0.8"),
            *self.heads,
            *extra,
        ]
        if self.amp:
            overrides += ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", self.amp]
        return load_config(CONFIGS / self.config, overrides)

    def images(self, count: int, num_classes: int, seed: int) -> list[dict]:
        """Input dicts of ``count`` random images with eight boxes each."""
        generator = torch.Generator().manual_seed(seed)
        return [self._image(num_classes, generator) for _ in range(count)]

    def _image(self, num_classes: int, generator: torch.Generator) -> dict:
        size = (self.height, self.width)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        return {
            "image": image,
            "height": self.height,
            "width": self.width,
            "instances": labels(size, 8, num_classes, generator),
        }


def labels(
    size: tuple[int, int], count: int, num_classes: int, generator: torch.Generator
) -> Instances:
    """Random boxes of a sixteenth to half of the image's sides, with classes."""
    height, width = size
    extent = torch.tensor([width, height])
    sides = extent * (1 / 16 + 7 / 16 * torch.rand(count, 2, generator=generator))
    corner = (extent - sides) * torch.rand(count, 2, generator=generator)
    return Instances(
        size,
        gt_boxes=Boxes(torch.cat([corner, corner + sides], dim=1)),
        gt_classes=torch.randint(0, num_classes, (count,), generator=generator),
    )


def _cases() -> list[Case]:
    r50, r18 = "cs2foggy_mic.yaml", "carla2camvid_mic.yaml"
    cases = []
    for heads, suffix in ((FULL, ""), (LIGHT, "-light")):
        cases += [
            Case(
                f"cpu-r18-128x256-4+4{suffix}", r18, 128, 256, 4, 4, heads=heads, quick=not suffix
            ),
            Case(f"cpu-r50-256x512-1+1{suffix}", r50, 256, 512, heads=heads, quick=not suffix),
        ]
    cases.append(Case("cpu-r50-256x512-1+1-no-pseudo", r50, 256, 512, pseudo_boxes=0))
    for heads, suffix in ((FULL, ""), (LIGHT, "-light")):
        for amp in ("", "bfloat16"):
            precision = {"": "fp32", "bfloat16": "bf16"}[amp]
            for n in (1, 8):
                name = f"cuda-r50-800x1600-{n}+{n}-{precision}{suffix}"
                cases.append(Case(name, r50, 800, 1600, n, n, "cuda", amp, heads))
    return cases


CASES: list[Case] = _cases()
