"""Low-frequency Fourier amplitudes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Translator


class FourierAmplitude(Translator):
    """The target's amplitudes at low frequencies, the source's phases everywhere.

    Yang and Soatto, FDA: Fourier Domain Adaptation, CVPR 2020, eq. 3-4: frequencies of at most
    floor(share * min(H, W)) cycles in both directions are exchanged.

    Args:
        share: half the side of the exchanged square, as a share of the image's shorter side, in
            [0, 0.5]. The paper's are 0.01, 0.05 and 0.09; larger ones bring artefacts.

    Raises ValueError if ``share`` is out of range.
    """

    def __init__(self, share: float = 0.01) -> None:
        super().__init__()
        if not 0.0 <= share <= 0.5:
            raise ValueError(f"share must be in [0, 0.5], got {share}")
        self.share = float(share)

    def translate(self, source: Tensor, target: Tensor) -> Tensor:
        height, width = source.shape[-2:]
        if target.shape[-2:] != source.shape[-2:]:
            size = (height, width)
            target = F.interpolate(target, size, mode="bilinear", antialias=True)
        spectrum = torch.fft.rfft2(source)
        reach = int(self.share * min(height, width))
        rows = torch.fft.fftfreq(height, 1.0 / height, device=source.device).abs() <= reach
        columns = torch.fft.rfftfreq(width, 1.0 / width, device=source.device) <= reach
        low = rows[:, None] & columns[None, :]
        amplitude = torch.where(low, torch.fft.rfft2(target).abs(), spectrum.abs())
        mixed = torch.polar(amplitude, spectrum.angle())
        return torch.fft.irfft2(mixed, s=(height, width))
