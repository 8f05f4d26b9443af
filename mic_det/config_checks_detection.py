"""Settings of detection that cannot work, or that nothing would read, are refused."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from mic_det.errors import Require

# Detectron2's ROI heads without one box head for all proposals.
OTHER_ROI_HEADS = ("Res5ROIHeads", "CascadeROIHeads", "RROIHeads")


def check_detection(cfg: CN, require: Require) -> None:
    """Call ``require(holds, message)`` for all that `AdaptiveRCNN` and its training ask of cfg."""
    _check_network(cfg, require)
    _check_sada(cfg, require)
    _check_unread(cfg, require)
    if cfg.MODEL.MIC.ENABLED:
        _check_masked_loss(cfg, require)


def _check_network(cfg: CN, require: Require) -> None:
    model = cfg.MODEL
    for key, on in (("MODEL.MASK_ON", model.MASK_ON), ("MODEL.KEYPOINT_ON", model.KEYPOINT_ON)):
        require(not on, f"{key}: mic_det trains boxes alone; set it to False.")
    if model.META_ARCHITECTURE != "AdaptiveRCNN":
        return
    require(
        model.PROPOSAL_GENERATOR.NAME == "RPN",
        f"MODEL.PROPOSAL_GENERATOR.NAME is RPN, not {model.PROPOSAL_GENERATOR.NAME!r}",
    )
    require(
        model.ROI_HEADS.NAME not in OTHER_ROI_HEADS,
        f"MODEL.ROI_HEADS.NAME is StandardROIHeads or one made from it, not "
        f"{model.ROI_HEADS.NAME!r}: AdaptiveRCNN needs one box head for all proposals.",
    )


def _check_sada(cfg: CN, require: Require) -> None:
    sada, pooled = cfg.MODEL.SADA, tuple(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    require(0.0 <= sada.DROPOUT < 1.0, f"MODEL.SADA.DROPOUT is in [0, 1), not {sada.DROPOUT}")
    if not sada.ENABLED:
        return
    aligned = tuple(sada.IMAGE_LEVELS or cfg.MODEL.RPN.IN_FEATURES)
    require(
        set(aligned) <= set(cfg.MODEL.RPN.IN_FEATURES),
        f"MODEL.SADA.IMAGE_LEVELS {aligned}: choose from MODEL.RPN.IN_FEATURES "
        f"{tuple(cfg.MODEL.RPN.IN_FEATURES)}",
    )
    require(
        sada.CONSISTENCY_WEIGHT == 0 or aligned[: len(pooled)] == pooled,
        f"MODEL.SADA.CONSISTENCY_WEIGHT > 0 compares proposals with the image-level heads of the "
        f"maps they are pooled from: MODEL.SADA.IMAGE_LEVELS must begin with {pooled}, not be "
        f"{aligned}. Or set the weight to 0.",
    )


def _check_unread(cfg: CN, require: Require) -> None:
    """Detectron2's keys that this training loop has no use for."""
    for key, used in (
        ("MODEL.LOAD_PROPOSALS", cfg.MODEL.LOAD_PROPOSALS),
        ("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler"),
        ("SOLVER.REFERENCE_WORLD_SIZE", cfg.SOLVER.REFERENCE_WORLD_SIZE != 0),
        ("TEST.AUG.ENABLED", cfg.TEST.AUG.ENABLED),
        ("TEST.PRECISE_BN.ENABLED", cfg.TEST.PRECISE_BN.ENABLED),
    ):
        require(not used, f"{key} is Detectron2's and not used here: take it out of the config.")


def _check_masked_loss(cfg: CN, require: Require) -> None:
    """The masked loss is cross-entropy over classes, on all anchors."""
    head, rpn = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.RPN
    for key, used in (
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", head.USE_SIGMOID_CE),
        ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", head.USE_FED_LOSS),
        ("MODEL.RPN.BOUNDARY_THRESH", rpn.BOUNDARY_THRESH >= 0),
    ):
        require(
            not used,
            f"{key} changes the source's loss and not MIC's: leave it at Detectron2's default.",
        )
