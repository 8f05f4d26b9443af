"""Semantic segmentation: networks, host methods, and masked image consistency around any of them.

`mic_det.segmentation.task` is what the engine finds by ``MODEL.TASK: "segmentation"``.
"""
