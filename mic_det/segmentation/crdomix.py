"""Cross-domain mixture (CrDoMix) of DiGA: one image, half its classes in the other domain's style.

Shen et al., DiGA: Distil to Generalize and then Adapt, CVPR 2023, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mic_det.core.augment import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    gaussian_blur,
    rotate_hue,
)

from .translate import Translator


def half_of_classes(
    labels: Tensor, num_classes: int, generator: torch.Generator | None = None
) -> Tensor:
    """A random half, rounded down, of the classes in ``labels`` (any shape): bool (K,) on the CPU.

    Labels outside [0, K) are no class.
    """
    present = torch.unique(labels.cpu())
    present = present[(present >= 0) & (present < num_classes)].long()
    order = torch.randperm(len(present), generator=generator)
    chosen = torch.zeros(num_classes, dtype=torch.bool)
    chosen[present[order[: len(present) // 2]]] = True
    return chosen


def own_style_mask(
    labels: Tensor, num_classes: int, generator: torch.Generator | None = None
) -> Tensor:
    """Bool (N, 1, H, W): True on a random half of each image's classes, and where no class is.

    Args:
        labels: (N, H, W), integer. Each image draws for itself.
    """
    masks = []
    for each in labels:
        chosen = half_of_classes(each, num_classes, generator).to(each.device)
        inside = (each >= 0) & (each < num_classes)
        masks.append(chosen[each.clamp(0, num_classes - 1).long()] | ~inside)
    return torch.stack(masks)[:, None]


def adjust_sharpness(rgb: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed copy: ``factor`` (N, 1, 1, 1) of 1 changes nothing, above 1 sharpens.

    ``rgb`` is (N, 3, H, W) in [0, 1]. The copy is smoothed by Pillow's kernel, 5 in the middle and
    1 around it, over 13; borders are repeated.
    """
    kernel = rgb.new_ones(3, 1, 3, 3)
    kernel[:, :, 1, 1] = 5.0
    padded = F.pad(rgb, (1, 1, 1, 1), mode="replicate")
    smooth = F.conv2d(padded, kernel / 13.0, groups=3)
    return (factor * rgb + (1.0 - factor) * smooth).clamp_(0.0, 1.0)


class BlendedColour(nn.Module):
    """DiGA's colour augmentation, blended into the image it was made from.

    Jitter of brightness, contrast, saturation and hue (0.4, 0.4, 0.2, 0.1; probability 0.5), grey
    (0.3), blur (0.8) and sharpness (0.3), each drawn for each image; the result is
    ``weight * augmented + (1 - weight) * image``.

    Args:
        weight: in [0, 1]; the authors' is 0.4 in warm-up and 0.3 later.

    Raises ValueError if ``weight`` is out of range.
    """

    JITTER = (0.4, 0.4, 0.2, 0.1)
    PROBABILITIES = (0.5, 0.3, 0.8, 0.3)
    BLUR_SIGMA = (0.15, 1.15)
    SHARPNESS = 0.5

    def __init__(self, weight: float = 0.4) -> None:
        super().__init__()
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"weight must be in [0, 1], got {weight}")
        self.weight = float(weight)

    @torch.no_grad()
    def forward(self, rgb: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``rgb`` (N, 3, H, W) float in [0, 1] to the same; all draws are made on the CPU."""
        draws = torch.rand(len(rgb), 10, generator=generator)
        applied = (draws[:, :4] < torch.tensor(self.PROBABILITIES)).to(rgb.device)
        swing = (2.0 * draws[:, 4:9] - 1.0).to(rgb)
        low, high = self.BLUR_SIGMA
        sigma = (low + (high - low) * draws[:, 9]).to(rgb)
        with torch.autocast(rgb.device.type, enabled=False):
            result = rgb
            for which, change in enumerate((self._jitter, self._grey, None, self._sharpen)):
                rows = applied[:, which].nonzero().flatten()
                if not len(rows):
                    continue
                if change is None:
                    changed = gaussian_blur(result[rows], sigma[rows])
                else:
                    changed = change(result[rows], swing[rows])
                result = result.index_copy(0, rows, changed)
        return self.weight * result + (1.0 - self.weight) * rgb

    def _jitter(self, rgb: Tensor, swing: Tensor) -> Tensor:
        factors = [
            (1.0 + size * swing[:, i]).view(-1, 1, 1, 1) for i, size in enumerate(self.JITTER[:3])
        ]
        rgb = adjust_brightness(rgb, factors[0])
        rgb = adjust_contrast(rgb, factors[1])
        rgb = adjust_saturation(rgb, factors[2])
        return rotate_hue(rgb, (self.JITTER[3] * swing[:, 3]).view(-1, 1, 1, 1))

    @staticmethod
    def _grey(rgb: Tensor, swing: Tensor) -> Tensor:
        return adjust_saturation(rgb, torch.zeros_like(swing[:, :1]).view(-1, 1, 1, 1))

    def _sharpen(self, rgb: Tensor, swing: Tensor) -> Tensor:
        return adjust_sharpness(rgb, (1.0 + self.SHARPNESS * swing[:, 4]).view(-1, 1, 1, 1))


class CrossDomainMixture(nn.Module):
    """The strongly changed view of a source image; no pixel moves, so its labels stay right.

    A random half of the image's classes (and what has no class) show the colour-augmented source
    pixels, the rest the image translated to the target's style.
    """

    def __init__(self, translator: Translator, num_classes: int) -> None:
        super().__init__()
        self.translator = translator
        self.num_classes = num_classes

    @torch.no_grad()
    def forward(
        self,
        source: Tensor,
        labels: Tensor,
        target: Tensor,
        colour: BlendedColour,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``source`` (N, 3, H, W) and ``target`` (M, 3, H', W') RGB in [0, 1]; like ``source``.

        ``labels`` is (N, H, W). Nothing but the style of ``target`` is used.
        """
        mask = own_style_mask(labels, self.num_classes, generator)
        return torch.where(mask, colour(source, generator), self.translator(source, target))
