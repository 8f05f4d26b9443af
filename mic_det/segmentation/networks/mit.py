"""Mix Transformers (SegFormer: Xie et al., NeurIPS 2021), those of the transformers library."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from mic_det.config import ConfigError
from mic_det.weights_checkpointer import check_weights

from .base import Encoder

# Channels and number of blocks of the four stages, by variant (SegFormer, table 6).
_WIDE = (64, 128, 320, 512)
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": (_WIDE, (2, 2, 2, 2)),
    "b2": (_WIDE, (3, 4, 6, 3)),
    "b3": (_WIDE, (3, 4, 18, 3)),
    "b4": (_WIDE, (3, 8, 27, 3)),
    "b5": (_WIDE, (3, 6, 40, 3)),
}
# Side of the smallest image that all four stages can look at.
SMALLEST = 32


class MixTransformer(Encoder):
    """MiT-B0 to B5: maps at strides 4, 8, 16 and 32.

    Args:
        variant: "b0" to "b5".
        weights: name or folder, as ``SegformerModel.from_pretrained`` takes it; "": random.
        drop_path: largest rate of stochastic depth.

    Raises ConfigError if the weights cannot be had, or are those of another variant.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, variant: str = "b0", weights: str = "", drop_path: float = 0.1) -> None:
        super().__init__()
        # An import of several seconds, which other networks and tasks need not wait for.
        from transformers import SegformerConfig, SegformerModel

        self.channels, depths = VARIANTS[variant]
        settings = {
            "hidden_sizes": list(self.channels),
            "depths": list(depths),
            "num_attention_heads": [1, 2, 5, 8],
            "drop_path_rate": drop_path,
        }
        if not weights:
            self.model = SegformerModel(SegformerConfig(**settings))
            return
        try:
            self.model, found = SegformerModel.from_pretrained(
                weights, output_loading_info=True, **settings
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"MODEL.SEG.ENCODER_WEIGHTS: {weights}: cannot be used for MiT-{variant.upper()}: "
                f"{error}"
            ) from error
        check_weights(weights, "model", self.model.state_dict(), self.model)
        # Heads of the model that the encoder was trained in are left aside.
        heads = ("classifier.", "decode_head.")
        too_many = (each for each in found["unexpected_keys"] if not each.startswith(heads))
        if strange := sorted({*found["missing_keys"], *too_many}):
            shown = ", ".join(strange[:3]) + (", …" if len(strange) > 3 else "")
            raise ConfigError(
                f"MODEL.SEG.ENCODER_WEIGHTS: {weights}: not those of a MiT-{variant.upper()} "
                f"(MODEL.SEG.MIT_VARIANT): {len(strange)} tensors are missing or too many: {shown}."
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps (N, C, ceil(H/s), ceil(W/s)) of images (N, 3, H, W), the finest first."""
        height, width = images.shape[-2:]
        # Keys and values are reduced to 1/32, so there must be that much; zero is the mean colour.
        missing = (0, max(0, SMALLEST - width), 0, max(0, SMALLEST - height))
        if any(missing):
            images = F.pad(images, missing)
        maps = self.model(pixel_values=images, output_hidden_states=True).hidden_states
        return [
            each[..., : math.ceil(height / stride), : math.ceil(width / stride)]
            for each, stride in zip(maps, self.strides, strict=True)
        ]
