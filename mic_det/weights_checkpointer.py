"""Detectron2's checkpointer for files from anywhere: it runs nothing and takes finite weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor

from mic_det.weights_file import CheckpointError, DamagedFileError, load_pickle, load_tensors


def tensors_of(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of nested dicts, lists and tuples, by the path to each."""
    if isinstance(value, Tensor):
        return {prefix: value.detach()}
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    dotted = f"{prefix}." if prefix else ""
    return {k: t for name, part in items for k, t in tensors_of(part, f"{dotted}{name}").items()}


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity, also as float32.

    One pass over the numbers, and one wait for a GPU.
    """
    floating = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not floating:
        return []
    device = max((t.device for t in floating.values()), key=lambda device: device.type != "cpu")
    wide = (t if t.dtype.itemsize > 1 else t.float() for t in floating.values())
    sums = [t.sum(dtype=torch.float32).to(device) for t in wide]
    suspects = torch.stack(sums).isfinite().logical_not().tolist()
    # A sum is also infinite where large numbers are added.
    return [
        name
        for (name, tensor), suspect in zip(floating.items(), suspects, strict=True)
        if suspect and not tensor.float().isfinite().all()
    ]


def listed(names: list[str]) -> str:
    """The first name and the number of the others, with the verb."""
    return names[0] + (f" and {len(names) - 1} more tensors are" if names[1:] else " is")


def check_weights(
    filename: str, part: str, state: Any, model: torch.nn.Module, *, by_name: bool = True
) -> None:
    """Raise CheckpointError unless ``state`` has finite numbers of the kind of the model's."""
    if not isinstance(state, dict):
        raise CheckpointError(f"{filename}: {part!r} is no dict of tensors")
    own = model.state_dict()
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, (np.ndarray, Tensor)):
            raise CheckpointError(
                f"{filename}: {part}: {name} is no tensor but {type(value).__name__}. Convert "
                "the file: save its state dict alone."
            )
        tensor = torch.as_tensor(value)
        target = own.get(name.removeprefix("module."))
        # Counters of BatchNorm are integers. With other names there is only the size to go by.
        floats = target.is_floating_point() if target is not None else tensor.numel() > 1
        if not tensor.is_floating_point() and floats and (target is not None or not by_name):
            raise CheckpointError(
                f"{filename}: {part}: {name} is {str(tensor.dtype).removeprefix('torch.')}, "
                "where the model has floating point numbers: a quantised file? Use one whose "
                "weights are float32, float16, bfloat16 or float64."
            )
        tensors[name] = tensor
    if broken := not_finite(tensors):
        raise DamagedFileError(
            f"{filename}: {part}: {listed(broken)} NaN or infinite. Use another file: in "
            "training, an earlier checkpoint."
        )


class WeightsCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` for files that may not be trusted (`mic_det.weights_file`)."""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in `DetectionCheckpointer`.

        Raises CheckpointError for a file that is damaged, asks for code to be run, or whose weights
        are not finite or not of the model's kind of numbers.
        """
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = self._read(filename)
        loaded["matching_heuristics"] = heuristics = loaded.get("matching_heuristics") is True
        check_weights(filename, "model", loaded["model"], self.model, by_name=not heuristics)
        return loaded

    def _read(self, filename: str) -> dict[str, Any]:
        """The content of a file, its weights under "model"."""
        if filename.endswith(".pkl"):
            return _from_pickle(load_pickle(filename), filename)
        loaded = load_tensors(filename)
        if not isinstance(loaded, dict):
            raise CheckpointError(f"{filename}: holds no dict of tensors")
        loaded = _from_torch(loaded, filename)
        if "matching_heuristics=True" in getattr(self._parsed_url_during_load, "query", ""):
            loaded["matching_heuristics"] = True
        return loaded


def _from_pickle(data: Any, filename: str) -> dict[str, Any]:
    """A ``.pkl`` of Detectron2's zoo, or one of Caffe2 whose names are to be matched."""
    if not isinstance(data, dict):
        raise CheckpointError(f"{filename}: holds no dict of arrays")
    if "model" in data and "__author__" in data:
        return data
    blobs = data.get("blobs", data)
    if not isinstance(blobs, dict):
        raise CheckpointError(f"{filename}: 'blobs' is no dict of arrays")
    weights = {key: value for key, value in blobs.items() if not str(key).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _from_torch(loaded: dict[str, Any], filename: str) -> dict[str, Any]:
    """A file of pycls or Detectron2, or a bare state dict."""
    if filename.endswith(".pyth"):
        state = loaded.get("model_state")
        if not isinstance(state, dict):
            raise CheckpointError(f"{filename}: a .pyth file must hold 'model_state'")
        state = {k: v for k, v in state.items() if not str(k).endswith("num_batches_tracked")}
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    return loaded if "model" in loaded else {"model": loaded}
