"""What a host method is: the method of adaptation that masked image consistency is added to.

A host says what its losses are, and how the teacher's predictions become pseudo labels. Everything
else (data, steps, teacher, checkpoints, evaluation, and MIC itself) is the same for all of them. A
new host is a class in this folder, named by ``@HOST_REGISTRY.register("name")`` and imported by
`mic_det.segmentation.hosts`; it is chosen by ``MODEL.SEG.HOST``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from mic_det.core import RunningMeans

from ..networks.base import SegmentationNetwork
from ..pseudo_labels import PixelLabels, confident_share_labels, kept_share


@dataclass
class Step:
    """What a host's losses of one iteration are made of.

    All images are floating, (N, 3, H, W), in [0, 255] and ``INPUT.FORMAT``'s order: networks
    normalise them themselves, so that images can be mixed and augmented before.

    Args:
        student: the network that is trained.
        source_images: of the source batch.
        source_labels: (N, H, W) int64, 255 where ignored.
        target_images: complete, weakly augmented; None unless the host or MIC uses the target.
        pseudo: of ``target_images``, from the host's own `Host.pseudo_label`; None unless used.
        masked_images: what MIC shows the student of the target, None without MIC. Its loss is no
            business of the host.
        teacher: the EMA of ``student``, in eval mode and without gradients; to be called under
            ``torch.no_grad()``. None where a segmentor is trained without one.
        iteration: from 0.
    """

    student: SegmentationNetwork
    source_images: Tensor
    source_labels: Tensor
    target_images: Tensor | None = None
    pseudo: PixelLabels | None = None
    masked_images: Tensor | None = None
    teacher: SegmentationNetwork | None = None
    iteration: int = 0


@dataclass
class Preparation:
    """What `Host.prepare` may look at before an iteration: both data sets, in one pass each.

    Images come complete, at test size and without augmentation, one batch after the other:
    ``source()`` gives (images (N, 3, H, W), labels (N, H, W)), ``target()`` gives images.
    """

    student: SegmentationNetwork
    teacher: SegmentationNetwork
    source: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    target: Callable[[], Iterable[Tensor]]
    iteration: int = 0


class HostRegistry(dict):
    """Host classes by the names that ``MODEL.SEG.HOST`` knows them by."""

    def register(self, name: str) -> Callable[[type[Host]], type[Host]]:
        """Class decorator; raises KeyError if another class has the name."""

        def add(cls: type[Host]) -> type[Host]:
            if name in self:
                raise KeyError(f"a segmentation host named {name!r} is there already")
            self[name] = cls
            return cls

        return add


HOST_REGISTRY = HostRegistry()


class Host(nn.Module, ABC):
    """A method of adaptation.

    State that training changes (prototypes, centroids, thresholds) is kept in buffers: they are
    saved with the student, and a resumed run continues with them. The teacher has no copy of its
    own: its `pseudo_label` is the student's host's.

    Args:
        threshold, ignore_top, ignore_bottom: of `confident_share_labels`.
    """

    #: Whether the losses need target images.
    uses_target = False
    #: Whether they need the teacher's pseudo labels. (MIC alone has them made as well.)
    uses_pseudo_labels = False
    #: Factor of SOLVER.BASE_LR for the host's own parameters.
    lr_factor = 1.0
    #: Whether the class centre distance is measured before and after a run (`separation`).
    reports_class_distance = False

    @configurable
    def __init__(
        self, *, threshold: float = 0.968, ignore_top: int = 0, ignore_bottom: int = 0
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.ignore_top = ignore_top
        self.ignore_bottom = ignore_bottom
        # Means for the curves of `engine.health_curves`; a host may add its own.
        self.health = RunningMeans()

    @classmethod
    def from_config(cls, cfg: CfgNode, network: SegmentationNetwork) -> dict[str, Any]:
        """Keyword arguments of the class. ``network`` is the student's, as it was just built."""
        pseudo = cfg.MODEL.SEG.PSEUDO
        return {
            "threshold": pseudo.THRESHOLD,
            "ignore_top": pseudo.IGNORE_TOP,
            "ignore_bottom": pseudo.IGNORE_BOTTOM,
        }

    @abstractmethod
    def losses(self, step: Step) -> dict[str, Tensor]:
        """Losses of an iteration, already weighted, by names that begin with ``loss_``.

        A loss must reach every parameter of network and host that has gradients, in each iteration
        alike: that is what training in several processes asks for. Random draws are made with
        torch's, numpy's or python's global generators, which are seeded anew for each iteration.
        """

    @torch.no_grad()
    def pseudo_label(self, teacher: SegmentationNetwork, target: Tensor) -> PixelLabels:
        """Labels of complete ``target`` images (N, 3, H, W), for the host's own use and MIC's.

        They are counted where the student learns from them (`note`), not here: pictures and
        inspection ask for labels as well.
        """
        logits = teacher(target)
        return confident_share_labels(logits, self.threshold, self.ignore_top, self.ignore_bottom)

    def note(self, pseudo: PixelLabels) -> None:
        """Add the pseudo labels of an iteration to the curves, each pixel once."""
        pixels = pseudo.labels.numel()
        self.health.add("pseudo_label_weight", pseudo.weight.sum(), pixels)
        self.health.add("pseudo_labelled_pixels", kept_share(pseudo) * pixels, pixels)

    def stage_starts(self) -> tuple[int, ...]:
        """Iterations before which `prepare` is called; a resumed run repeats none it has behind."""
        return ()

    def prepare(self, preparation: Preparation) -> None:
        """Look at whole data sets before a stage: first prototypes, thresholds of classes.

        Called with gradients off and the networks in eval mode. Draws nothing at random.
        """


def build_host(cfg: CfgNode, network: SegmentationNetwork) -> Host:
    """The host that ``MODEL.SEG.HOST`` names."""
    return host_class(cfg)(cfg, network)


def host_class(cfg: CfgNode) -> type[Host]:
    """Its class, which says what of the data it uses."""
    return HOST_REGISTRY[cfg.MODEL.SEG.HOST]
