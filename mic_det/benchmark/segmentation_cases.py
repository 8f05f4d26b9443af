"""The settings of segmentation that are measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode

from mic_det.config import load_config

from .cases import CONFIGS

# A network small enough for a CPU on configs of the benchmarks.
MIT_B0 = ("MODEL.SEG.MIT_VARIANT", "b0")
# Sides of one-coloured squares in label images, in pixels.
BLOCK = 16


@dataclass(frozen=True)
class SegmentationCase:
    """One setting; all images are crops of one size.

    Args:
        name: what results are filed under.
        config: file in ``configs/seg``, of MIC on self-training, with HRDA or without.
        height, width: of all images, in pixels.
        source, target: images of a batch.
        device: "cpu" or "cuda".
        amp: "", "bfloat16" or "float16".
        overrides: of the config.
        quick: whether ``--quick`` measures it.
    """

    name: str
    config: str
    height: int
    width: int
    source: int = 2
    target: int = 2
    device: str = "cpu"
    amp: str = ""
    overrides: tuple[str, ...] = ()
    quick: bool = False

    def cfg(self, extra: tuple[str, ...] = ()) -> CfgNode:
        """Its configuration: random weights, and nothing that depends on data."""
        overrides = [
            *("MODEL.WEIGHTS", "", "MODEL.SEG.ENCODER_WEIGHTS", "", "MODEL.DEVICE", self.device),
            # Weights stay where they are: random images teach nothing but to diverge.
            *("SOLVER.BASE_LR", "0.0"),
            *("SOLVER.IMS_PER_BATCH", str(self.source)),
            *("SOLVER.TARGET_IMS_PER_BATCH", str(self.target)),
            *self.overrides,
            *extra,
        ]
        if self.amp:
            overrides += ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", self.amp]
        return load_config(CONFIGS / "seg" / self.config, overrides)

    @property
    def has_hrda(self) -> bool:
        return bool(self.cfg().MODEL.SEG.HRDA.ENABLED)

    def images(self, count: int, num_classes: int, seed: int) -> list[dict]:
        """Input dicts of ``count`` random images, with labels in squares of `BLOCK` pixels."""
        generator = torch.Generator().manual_seed(seed)
        return [self._image(num_classes, generator) for _ in range(count)]

    def _image(self, num_classes: int, generator: torch.Generator) -> dict:
        size = (self.height, self.width)
        grid = (1, 1, self.height // BLOCK, self.width // BLOCK)
        labels = torch.randint(0, num_classes, grid, generator=generator).float()
        return {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "sem_seg": F.interpolate(labels, size=size)[0, 0].long(),
            "height": self.height,
            "width": self.width,
        }


def _cases() -> list[SegmentationCase]:
    case = SegmentationCase
    hrda = (
        *("MODEL.SEG.HRDA.DETAIL_CROP", "(128, 256)"),
        *("MODEL.SEG.HRDA.CONTEXT_WINDOW", "(256, 512)"),
    )
    cases = [
        case("seg-cpu-r18-128x256-2+2", "streets_mic.yaml", 128, 256),
        case("seg-cpu-r18-hrda-128x256-2+2", "streets_hrda_mic.yaml", 128, 256),
        case("seg-cpu-mitb0-256x512-1+1", "gta2cs_mic.yaml", 256, 512, 1, 1, overrides=MIT_B0),
        case(
            "seg-cpu-mitb0-hrda-256x512-1+1",
            "gta2cs_hrda_mic.yaml",
            *(256, 512, 1, 1),
            overrides=(*MIT_B0, *hrda),
        ),
    ]
    for amp in ("", "bfloat16"):
        end = "2+2-" + {"": "fp32", "bfloat16": "bf16"}[amp]
        cases += [
            case(f"seg-cuda-mitb5-512x512-{end}", "gta2cs_mic.yaml", 512, 512, 2, 2, "cuda", amp),
            case(
                f"seg-cuda-mitb5-hrda-1024x1024-{end}",
                "gta2cs_hrda_mic.yaml",
                *(1024, 1024, 2, 2, "cuda", amp),
            ),
        ]
    return cases


SEGMENTATION_CASES: list[SegmentationCase] = _cases()
