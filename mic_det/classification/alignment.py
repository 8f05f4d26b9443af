"""Adversarial alignment of source and target features: DANN and CDAN."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mic_det.core import RunningMeans, scale_gradient

from .losses import certainty_weights


def reversal(iteration: int, warmup: int) -> float:
    """Strength of the gradient reversal: 2 / (1 + exp(-iteration / warmup)) - 1; 1 without warm-up.

    The schedule of Ganin and Lempitsky (ICML 2015, section 5.2.2) as implementations of CDAN use
    it: 0 at the start, 0.46 after ``warmup`` iterations, towards 1.
    """
    return 2.0 / (1.0 + math.exp(-iteration / warmup)) - 1.0 if warmup else 1.0


class OuterProduct(nn.Module):
    """All products of features and class probabilities (Long et al., NeurIPS 2018, eq. 3)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.out_features = features * classes

    def forward(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """(N, D) and (N, K) to (N, K * D)."""
        return (probabilities[:, :, None] * features[:, None, :]).flatten(1)


class RandomProduct(nn.Module):
    """Products of random projections, whose inner products are on average those of the outer
    product (Long et al., NeurIPS 2018, eq. 6): (f R_f) * (g R_g) / sqrt(d).

    The matrices are drawn once, N(0, 1), and are saved with the model.
    """

    def __init__(self, features: int, classes: int, dim: int) -> None:
        super().__init__()
        self.out_features = dim
        self.register_buffer("of_features", torch.randn(features, dim))
        self.register_buffer("of_classes", torch.randn(classes, dim))

    def forward(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """(N, D) and (N, K) to (N, d)."""
        product = (features @ self.of_features) * (probabilities @ self.of_classes)
        return product / math.sqrt(self.out_features)


class DomainAlignment(nn.Module):
    """A domain classifier whose gradients into the features are reversed.

    DANN (Ganin et al., JMLR 2016) sees features alone; CDAN (Long et al., NeurIPS 2018) features
    together with the classifier's probabilities, which get no gradient from it. The loss is binary
    cross-entropy, 1 is source; the two domains count the same, whatever their numbers of images.

    Args:
        features: D, of a feature vector.
        classes: K, number of classes.
        conditional: CDAN; else DANN.
        entropy: weigh images by `certainty_weights` (CDAN+E).
        exact_up_to: an outer product of more than so many elements is projected to ``random_dim``.
        hidden: channels of the classifier's two hidden layers.
        warmup: of `reversal`, in iterations.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        conditional: bool = True,
        entropy: bool = True,
        exact_up_to: int = 4096,
        random_dim: int = 1024,
        hidden: int = 1024,
        warmup: int = 1000,
    ) -> None:
        super().__init__()
        self.product: nn.Module | None = None
        if conditional and features * classes <= exact_up_to:
            self.product = OuterProduct(features, classes)
        elif conditional:
            self.product = RandomProduct(features, classes, random_dim)
        self.entropy = entropy and conditional
        self.warmup = warmup
        inputs = features if self.product is None else self.product.out_features
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )
        # How often it is right, for the curves of `engine.health_curves`.
        self.health = RunningMeans()

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_logits: Tensor,
        target_logits: Tensor,
        iteration: int,
    ) -> Tensor:
        """The loss of features (N_s, D) and (N_t, D), with their class logits (N, K)."""
        counts = [len(source), len(target)]
        probabilities = F.softmax(torch.cat([source_logits, target_logits]).detach().float(), -1)
        inputs = torch.cat([source, target])
        if self.product is not None:
            inputs = self.product(inputs, probabilities.to(inputs.dtype))
        inputs = scale_gradient(inputs, -reversal(iteration, self.warmup))
        logits = self.layers(inputs).squeeze(1).float()
        losses = []
        for part, of_classes, label in zip(
            logits.split(counts), probabilities.split(counts), (1.0, 0.0), strict=True
        ):
            loss = F.binary_cross_entropy_with_logits(
                part, torch.full_like(part, label), reduction="none"
            )
            losses.append((loss * certainty_weights(of_classes) if self.entropy else loss).mean())
            name = "source" if label else "target"
            right = ((part > 0) == bool(label)).sum()
            self.health.add(f"domain_accuracy/{name}", right, len(part))
        return (losses[0] + losses[1]) / 2
