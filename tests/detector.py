"""A tiny detector, images and labels for the tests of `mic_det.detection`."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

import mic_det.detection  # noqa: F401  (registers the meta-architecture and the backbone)
from mic_det.config import load_config
from mic_det.detection import batch, sparse_pooling

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = 8

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.SADA.IMAGE_CHANNELS": 16,
    "MODEL.SADA.INSTANCE_CHANNELS": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 50,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
}
ALL_PARTS = {"MODEL.SADA.ENABLED": True, "MODEL.MIC.ENABLED": True}


def tiny_cfg(overrides: dict | None = None):
    """The frozen config of configs/base/streets.yaml with a smaller network."""
    settings = TINY | (overrides or {})
    return load_config(
        CONFIGS / "base" / "streets.yaml",
        [str(part) for item in settings.items() for part in item],
    )


def tiny_model(overrides: dict | None = None, seed: int = 0):
    """A tiny model in training mode, whose weights depend on ``seed`` alone.

    Detectron2 and SADA start their classifiers almost at zero, where all scores and probabilities
    are alike; here they are spread, so that a mistake in a loss shows.
    """
    torch.manual_seed(seed)
    model = build_model(tiny_cfg(overrides))
    spread = [model.roi_heads.box_predictor.cls_score, model.proposal_generator.rpn_head]
    spread.append(getattr(model, "domain_heads", None))
    with torch.no_grad():
        for part in spread:
            for name, parameter in part.named_parameters() if part is not None else ():
                if "anchor_deltas" not in name:
                    parameter.normal_(0.0, 0.2)
    return model.train()


def equal_on(paths: str, monkeypatch):
    """What two results must be: equal to the bit on the "plain" paths, to rounding on the "fast".

    The fast ones add in another order: sparse pooling, and small batches in one pass on a CPU.
    """
    if paths == "fast":
        return lambda one, other: torch.allclose(one, other, rtol=1e-5, atol=1e-4)
    monkeypatch.setattr(sparse_pooling, "MIN_CHANNELS", 10**9)
    monkeypatch.setattr(batch, "CPU_PIXELS", 0)
    return torch.equal


def random_image(height: int = 64, width: int = 96) -> torch.Tensor:
    """A smooth random uint8 image (3, height, width)."""
    coarse = torch.rand(1, 3, 4, 5) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth[0] + 10 * torch.randn(3, height, width)).clamp(0, 255).to(torch.uint8)


def random_labels(height: int = 64, width: int = 96, count: int = 3, scores: bool = False):
    """Instances with ``gt_boxes`` and ``gt_classes``, and ``gt_scores`` in [0.8, 1]."""
    sides = 8 + torch.rand(count, 2) * (torch.tensor([width, height]) / 2 - 8)
    corners = torch.rand(count, 2) * (torch.tensor([width, height]) - sides)
    labels = Instances((height, width))
    labels.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
    labels.gt_classes = torch.randint(0, CLASSES, (count,))
    if scores:
        labels.gt_scores = 0.8 + 0.2 * torch.rand(count)
    return labels


def no_labels(height: int = 64, width: int = 96) -> Instances:
    return random_labels(height, width, 0, scores=True)


def labelled(height: int = 64, width: int = 96, count: int = 3) -> dict:
    """A Detectron2 input dict with labels."""
    return {
        "image": random_image(height, width),
        "instances": random_labels(height, width, count),
        "height": height,
        "width": width,
    }


def unlabelled(height: int = 64, width: int = 96) -> dict:
    return {"image": random_image(height, width), "height": height, "width": width}


def detections(boxes, classes, scores, size=(64, 96)) -> Instances:
    """What a detector returns for an image."""
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
    )


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    return {
        name: None if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def backward_of(model: torch.nn.Module, losses: dict) -> dict[str, torch.Tensor | None]:
    """Gradients of the sum of ``losses``, from a clean start."""
    model.zero_grad(set_to_none=True)
    sum(losses.values()).backward()
    return gradients(model)


def masked_losses(model, masked, pseudo):
    """MIC's losses alone, as the model's forward makes them; {} where no image has a label."""
    rows = model._labelled(pseudo)
    if not rows:
        return {}
    return model.masked_loss(
        model.proposal_generator,
        model.roi_heads,
        model.extract([masked[i] for i in rows]),
        [pseudo[i] for i in rows],
        num_images=len(masked),
    )
