"""Masked Image Consistency (MIC) for unsupervised domain adaptation, on Detectron2."""

__version__ = "0.1.0"
