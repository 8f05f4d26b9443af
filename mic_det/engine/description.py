"""What a checkpoint says about itself, and what of it must hold where the file is loaded.

Class names have to be the same in the same order, whatever a file is loaded for. Of the settings,
those that decide what the network computes (`Task.network` and `PIXELS`) have to be the same in
evaluation and prediction; a resumed run has to have all of the run's settings but the `HARMLESS`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from mic_det.data.catalog import unlabelled_dicts
from mic_det.tasks import task_named, task_of
from mic_det.weights_file import CheckpointError

logger = logging.getLogger(__name__)

# Complete settings of a run, in OUTPUT_DIR.
CONFIG = "run_config.yaml"
# How pixels enter any network.
PIXELS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
# The size at which a network sees images: the user's choice, which changes the numbers.
SIZES = ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "INPUT.SQUARE.RESIZE", "INPUT.SQUARE.SIZE")
# The state in a checkpoint is for one value of these: draws, and an optimizer's groups of weights.
FIXED = (
    *("MODEL.TASK", "SEED", "SOLVER.OPTIMIZER", "SOLVER.BIAS_LR_FACTOR", "SOLVER.WEIGHT_DECAY"),
    *("SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS", "MODEL.SEG.HEAD_LR_FACTOR"),
    *("MODEL.SEG.ADVERSARIAL.LR_FACTOR", "MODEL.CLASSIFIER.BACKBONE_LR_FACTOR"),
)
# Without effect on what a resumed run learns: where and how often it writes, how it loads, when it
# gives up, and what only a new run reads. Of data sets, their records are compared.
HARMLESS = (
    *("OUTPUT_DIR", "DATASETS.REGISTER", "INPUT.RESIZED_CACHE", "VIS_PERIOD", "VIS_IMAGES"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINTS_KEPT", "TEST.EVAL_PERIOD"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.PREFETCH_FACTOR", "DATALOADER.CHECK_LABELS"),
    *("DATALOADER.MAX_UNREADABLE", "SOLVER.MAX_SKIPPED_STEPS", "MODEL.MIC.WATCHDOG"),
    *("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.WEIGHTS_FROM", "MODEL.CLASSIFIER.PRETRAINED"),
)
# Where records lie is no part of what they are.
PLACES = ("file_name", "sem_seg_file_name")

Changes = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Description:
    """Class names by id, the value of each key of the configuration, the records of data sets.

    Empty class names are not known; ``data`` has "6 records (digest)" by the data set's name.
    """

    classes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, cfg: CfgNode, classes: Sequence[str] = (), data: Mapping[str, str] | None = None
    ) -> Description:
        """Describe a model of this configuration."""
        return cls(list(classes), flat_settings(cfg.dump()), dict(data or {}))

    @classmethod
    def read(cls, content: Any, path: str) -> Description:
        """Check and return what `content` wrote into a file; raises CheckpointError."""
        parts = {"classes": list, "settings": dict, "data": dict}
        if (
            not isinstance(content, dict)
            or any(not isinstance(content.get(name), kind) for name, kind in parts.items())
            or not all(isinstance(name, str) for name in content["classes"])
        ):
            raise CheckpointError(
                f"{path}: its entry 'mic_det' has not the form that mic_det writes. Take another "
                "checkpoint of the run."
            )
        return cls(**{name: content[name] for name in parts})

    def content(self) -> dict[str, Any]:
        """Plain containers and values, for a file."""
        return {
            "classes": list(self.classes),
            "settings": dict(self.settings),
            "data": dict(self.data),
        }

    def check_start(self, file: Description, path: str) -> None:
        """Raise CheckpointError if a training from this file would take classes for others.

        With another number of classes the classifier is left out. Other settings are warned of.
        """
        if len(file.classes) == len(self.classes):
            self._check_classes(file, path, START_HINT)
        changed = self._network_changes(file)
        if changed:
            logger.warning(
                "%s was trained with other settings than this training's:\n%s", path, lines(changed)
            )

    def check_served(self, file: Description, path: str) -> None:
        """Raise CheckpointError if this file's model would compute, or mean, something else here.

        Another size of the images is warned of.
        """
        self._check_classes(file, path)
        changed = self._network_changes(file)
        if changed:
            raise CheckpointError(
                f"{path}: was trained with other settings (the file's -> the config's):\n"
                f"{lines(changed)}\nUse the config that it was trained with."
            )
        sizes = _below(changes(file.settings, self.settings), SIZES)
        if sizes:
            logger.warning("%s was trained for another size of images:\n%s", path, lines(sizes))

    def check_resumed(self, file: Description, path: str, *, allow: bool = False) -> None:
        """Raise CheckpointError if a run would go on as another one; log what has changed.

        ``allow``: whether the user insists on changes that can be made.
        """
        self._check_classes(file, path)
        changed = run_changes(file.settings, self.settings)
        changed |= {
            f"records of {name}": pair for name, pair in changes(file.data, self.data).items()
        }
        refuse_changes(changed, path, self.settings, allow=allow)
        if changed:
            logger.warning("Resumed with changed settings:\n%s", lines(changed))

    def _check_classes(self, file: Description, path: str, hint: str = "") -> None:
        """Raise CheckpointError if class names differ, where both are known."""
        if not file.classes or not self.classes or list(file.classes) == list(self.classes):
            return
        same = sorted(file.classes) == sorted(self.classes)
        raise CheckpointError(
            f"{path}: its classes are {'in another order than' if same else 'not'} those of the "
            f"data:\n  file: {_listed(file.classes)}\n  data: {_listed(self.classes)}\nList the "
            "file's as `classes:` where the first of DATASETS.TRAIN is registered (without a "
            "source here, the first of DATASETS.TEST), or name the data that the file was trained "
            f"with.{hint}"
        )

    def _network_changes(self, file: Description) -> Changes:
        network = task_named(self.settings["MODEL.TASK"]).network
        return _below(changes(file.settings, self.settings), (*PIXELS, *network))


START_HINT = (
    " To learn other classes from it, save its 'model' without the classifier as a file of its own."
)


def check_resumed_config(cfg: CfgNode, *, allow: bool = False) -> None:
    """Raise CheckpointError if the run in ``OUTPUT_DIR`` was started with other settings.

    Compared with its ``run_config.yaml``, if it has one: before anything is loaded or written.
    """
    path = Path(cfg.OUTPUT_DIR) / CONFIG
    if path.is_file():
        settings = flat_settings(cfg.dump())
        changed = run_changes(flat_settings(path.read_text(encoding="utf-8")), settings)
        refuse_changes(changed, str(path), settings, allow=allow)


def run_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """The settings of a run that have changed; a seed that is to be drawn is the run's own."""
    changed = changes(before, now)
    if now["SEED"] < 0:
        changed.pop("SEED", None)
    return changed


def refuse_changes(changed: Changes, path: str, now: Mapping[str, Any], *, allow: bool) -> None:
    """Raise CheckpointError for changes that cannot be made, or that nobody has insisted on."""
    network = task_named(now["MODEL.TASK"]).network
    fixed = _below(changed, (*FIXED, *PIXELS, *network))
    before, after = changed.get("SOLVER.MAX_ITER", (0, 0))
    harmless = _below(changed, (*HARMLESS, *(["SOLVER.MAX_ITER"] if after > before else [])))
    own = f"Resume with the run's own settings ({now['OUTPUT_DIR']}/{CONFIG})"
    anew = "start another run from its weights (MODEL.WEIGHTS, another OUTPUT_DIR)"
    if fixed:
        raise CheckpointError(
            f"{path}: a resumed run cannot have these settings changed:\n{lines(fixed)}\n{own}, or "
            f"{anew}."
        )
    if not allow and changed.keys() - harmless.keys():
        raise CheckpointError(
            f"{path}: the run was trained with other settings or data:\n{lines(changed)}\n{own}, "
            f"{anew}, or add --allow-changes to go on with the new ones."
        )


def record_digests(cfg: CfgNode, classes: Sequence[str]) -> dict[str, str]:
    """Number and digest of the records of each data set that is trained on."""
    task = task_of(cfg)
    records = {name: unlabelled_dicts(name) for name in cfg.DATASETS.TARGET}
    records |= {name: task.labelled(name, classes) for name in cfg.DATASETS.TRAIN}
    return {name: _digest(found) for name, found in records.items()}


def flat_settings(text: str) -> dict[str, Any]:
    """Values by complete key of a configuration in YAML."""
    return dict(_flat(yaml.safe_load(text), ""))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Both values of what is in both and differs."""
    return {key: (value, now[key]) for key, value in before.items() if now.get(key, value) != value}


def lines(changed: Changes) -> str:
    """A line for each change."""
    return "\n".join(f"  {key}: {before} -> {now}" for key, (before, now) in changed.items())


def _below(changed: Changes, sections: Sequence[str]) -> Changes:
    """The changes of these keys and of what is below them."""
    starts = tuple(f"{section}." for section in sections)
    return {key: pair for key, pair in changed.items() if f"{key}.".startswith(starts)}


def _flat(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _listed(names: Sequence[str]) -> str:
    return "[" + ", ".join(map(str, names)) + "]"


def _digest(records: Sequence[Mapping[str, Any]]) -> str:
    plain = [{k: v for k, v in record.items() if k not in PLACES} for record in records]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
    return f"{len(plain)} records ({digest[:12]})"
