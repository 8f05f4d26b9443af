"""The meta-architecture: a segmentation network, a host method, and MIC around it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from mic_det.core import MaskedView, untracked
from mic_det.tasks import Classifier

from .batch import Batch, stack_images, stack_labels
from .hosts import Host, Step, build_host
from .losses import IGNORED
from .networks import SegmentationNetwork, build_network
from .pseudo_labels import PixelLabels


class Segmentor(nn.Module):
    """A network in Detectron2's form of a semantic segmentor."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    @property
    def device(self) -> torch.device:
        return self.network.pixel_mean.device

    @torch.no_grad()
    def inference(self, batch: Batch) -> list[dict[str, Tensor]]:
        """For each input dict ``{"sem_seg": logits (K, height, width)}``.

        Sizes are ``height`` and ``width`` of the dict, or its image's.
        """
        logits = self.network(self.images(batch))
        results = []
        for each, found in zip(batch, logits, strict=True):
            shown = tuple(each["image"].shape[-2:])
            height, width = each.get("height", shown[0]), each.get("width", shown[1])
            results.append({"sem_seg": sem_seg_postprocess(found, shown, height, width)})
        return results

    def images(self, batch: Batch) -> Tensor:
        """The images of input dicts as `SegmentationNetwork` takes them."""
        return stack_images(batch, self.network.pixel_mean)


def label_target(
    host: Host, network: SegmentationNetwork, images: Tensor, batch: Batch
) -> PixelLabels:
    """The host's pseudo labels, none for what smaller images were filled up with."""
    pseudo = host.pseudo_label(network, images)
    for labels, each in zip(pseudo.labels, batch, strict=True):
        height, width = each.get("shown", each["image"].shape[-2:])
        labels[height:] = IGNORED
        labels[:, width:] = IGNORED
    return pseudo


class TeacherSegmentor(Segmentor):
    """What an EMA teacher is made of: the network alone, and how the host labels with it."""

    def __init__(self, network: SegmentationNetwork, host: Host) -> None:
        super().__init__(network)
        # In a tuple it is no submodule: it stays the student's, and is no part of the average.
        self._host = (host,)

    def forward(self, batch: Batch) -> list[dict[str, Tensor]]:
        return self.inference(batch)

    @torch.no_grad()
    def pseudo_label(self, target: Batch) -> PixelLabels:
        """The host's pseudo labels of complete target images."""
        (host,) = self._host
        return label_target(host, self.network, self.images(target), target)


@META_ARCH_REGISTRY.register()
class AdaptiveSegmentor(Segmentor):
    """A segmentor that adapts from a source to a target domain.

    Args:
        network: encoder and decoder.
        host: the method whose losses it is trained with.
        mic_weight: lambda of the masked losses, 0 without MIC.
        mic_domains: "target", "source" or "source_target": whose images are masked. Masked target
            images are trained on the host's pseudo labels, masked source images on their labels.
        mask_source: from source input dicts to what the student sees of them, where it is needed.
        head_lr_factor: of SOLVER.BASE_LR for all of the network but the encoder.
    """

    @configurable
    def __init__(
        self,
        *,
        network: SegmentationNetwork,
        host: Host,
        mic_weight: float = 0.0,
        mic_domains: str = "target",
        mask_source: Callable[[Batch], Batch] | None = None,
        head_lr_factor: float = 1.0,
    ) -> None:
        super().__init__(network)
        self.head_lr_factor = head_lr_factor
        self.host = host
        self.mic_weight = mic_weight
        self.mic_domains = mic_domains
        self.mask_source = mask_source
        self._teacher: tuple[TeacherSegmentor, ...] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        network = build_network(cfg)
        return {
            "network": network,
            "host": build_host(cfg, network),
            "mic_weight": cfg.MODEL.MIC.WEIGHT if cfg.MODEL.MIC.ENABLED else 0.0,
            "mic_domains": cfg.MODEL.SEG.MIC_DOMAINS,
            "mask_source": _mask_source(cfg),
            "head_lr_factor": cfg.MODEL.SEG.HEAD_LR_FACTOR,
        }

    @property
    def classifier(self) -> Classifier:
        """Where the model tells its classes, for messages about weights that do not fit."""
        rows = f"network.decoder.{self.network.decoder.class_rows}"
        return Classifier(rows, "MODEL.SEM_SEG_HEAD.NUM_CLASSES")

    def forward(
        self,
        source: Batch,
        target: Batch | None = None,
        masked: Batch | None = None,
        pseudo: PixelLabels | None = None,
    ) -> Any:
        """Weighted losses in training, `inference` otherwise.

        Args:
            source: input dicts; in training with ``sem_seg`` (H, W), 255 where ignored.
            target: the same without labels; complete and weakly augmented.
            masked: the target images as MIC shows them to the student.
            pseudo: labels of ``target``, from `pseudo_label` of a teacher.
        """
        if not self.training:
            return self.inference(source)
        if pseudo is not None:
            self.host.note(pseudo)
        step = self._step(source, target, masked, pseudo)
        return self.host.losses(step) | self.masked_losses(step, source)

    def masked_losses(self, step: Step, source: Batch) -> dict[str, Tensor]:
        """MIC's losses (Hoyer et al., CVPR 2023, eq. 5): of masked target and source images.

        No pass for masked target images as long as the host has no pseudo labels at all. Masked
        images are left out of BatchNorm's running statistics: the model is used on complete ones.
        """
        losses = {}
        shown = step.masked_images is not None and not step.pseudo.none
        if self.mic_weight and shown and self.mic_domains != "source":
            with untracked(step.student):
                output = step.student.supervised(
                    step.masked_images, step.pseudo.labels, step.pseudo.weight
                )
            losses["loss_mic"] = self.mic_weight * output.loss
        if self.mic_weight and self.mask_source is not None and self.mic_domains != "target":
            masked = self.images(self.mask_source(source))
            with untracked(step.student):
                output = step.student.supervised(masked, step.source_labels)
            losses["loss_mic_source"] = self.mic_weight * output.loss
        return losses

    @torch.no_grad()
    def pseudo_label(self, target: Batch) -> PixelLabels:
        """The host's pseudo labels by this network itself; a teacher's are better."""
        return label_target(self.host, self.network, self.images(target), target)

    def teacher_copy(self) -> TeacherSegmentor:
        """A copy of the network for an EMA teacher; the last one made is `Step.teacher`."""
        teacher = TeacherSegmentor(copy.deepcopy(self.network), self.host)
        self._teacher = (teacher,)
        return teacher

    def lr_factor(self, name: str) -> float:
        """Factor of SOLVER.BASE_LR for the parameter of that name."""
        if name.startswith("host."):
            return self.host.lr_factor
        return 1.0 if name.startswith("network.encoder.") else self.head_lr_factor

    def _step(
        self,
        source: Batch,
        target: Batch | None,
        masked: Batch | None,
        pseudo: PixelLabels | None,
    ) -> Step:
        return Step(
            student=self.network,
            source_images=self.images(source),
            source_labels=stack_labels(source, self.device),
            target_images=self.images(target) if target else None,
            pseudo=pseudo,
            masked_images=self.images(masked) if masked else None,
            teacher=self._teacher[0].network if self._teacher else None,
            iteration=get_event_storage().iter,
        )


def _mask_source(cfg: CfgNode) -> Callable[[Batch], Batch] | None:
    if not cfg.MODEL.MIC.ENABLED or cfg.MODEL.SEG.MIC_DOMAINS == "target":
        return None
    return MaskedView.from_config(cfg)
