"""What training runs left in their folders, read leniently: an old or unfinished run counts too."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mic_det.data.formats.coco import DataError
from mic_det.engine.evaluation import inference_folder
from mic_det.engine.record import CONFIG, LAST_CONFIG, RESULTS, RESULTS_CONFIG, read_starts
from mic_det.engine.report import result_rows
from mic_det.tasks import MODULES, Task, task_named

# Hosts of segmentation by MODEL.SEG.HOST, as readers know them; others go by their own names.
SOURCE_ONLY = "source_only"
HOSTS = {"self_training": "self-training", "adversarial": "AdaptSegNet"}
HOSTS |= {"spcl": "SPCL", "diga": "DiGA"}
# What differs between runs that are repeated with another seed.
OF_A_SEED = ("SEED", "OUTPUT_DIR", "MODEL.WEIGHTS")
# The checkpoint that a training ends with.
FINAL = "model_final.pth"
# Rows of Detectron2's table of the environment that are worth a reader's time.
ENVIRONMENT = ("Python", "PyTorch", "torchvision", "numpy", "detectron2", "Pillow", "cv2")


class _Loader(yaml.SafeLoader):
    """Also reads the tuples that a dumped config may hold."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node)
)


def read_settings(text: str) -> Any:
    """A dumped config as nested dicts."""
    return yaml.load(text, _Loader)


@dataclass(frozen=True)
class Start:
    """The weights that a run started from.

    ``identity``: equal for equal weights (the file's hash, else its path; "" for none).
    ``folder``: of the run that wrote them, None if no run did or it is not there any more.
    ``iterations``: that they had been trained for, in that run and those before it; 0 for weights
    from elsewhere, None if it cannot be known.
    """

    identity: str = ""
    path: str = ""
    folder: Path | None = None
    iterations: int | None = 0


@dataclass
class RunRecord:
    """One run.

    ``settings``: those that it was trained with, as nested dicts; those of the last command in the
    folder if they are not ``recorded``. ``measured``: those that its results were measured with,
    ``measured_file`` the checkpoint that they are of. ``starts``: of its record. ``rows``: the
    lines of metrics.json. ``results``: results.json. ``problems``: what is missing or broken, each
    a sentence for the reader. ``start``: see `lineage.start_of`.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    recorded: bool = False
    measured: dict[str, Any] = field(default_factory=dict)
    measured_file: str = FINAL
    starts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    duration: str = ""
    problems: list[str] = field(default_factory=list)
    label: str = ""
    style: int = 0
    start: Start | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    def setting(self, key: str, default: Any = None) -> Any:
        """The value of a key such as ``MODEL.MIC.RATIO``; ``default`` if the config lacks it."""
        return lookup(self.settings, key, default)

    @property
    def config(self) -> Path:
        """The file of ``settings``."""
        return self.folder / (CONFIG if self.recorded else LAST_CONFIG)

    @property
    def iterations_done(self) -> int:
        """Iterations so far, as far as they are written down."""
        last = self.rows[-1]["iteration"] + 1 if self.rows else 0
        # The last evaluation is written down as one iteration further.
        return last if self.max_iter is None else min(last, self.max_iter)

    @property
    def max_iter(self) -> int | None:
        """``SOLVER.MAX_ITER``, None if the config lacks it."""
        value = self.setting("SOLVER.MAX_ITER")
        return value if isinstance(value, int) else None

    @property
    def task_name(self) -> str:
        """``MODEL.TASK``; runs from before there were several are of detection."""
        return self.setting("MODEL.TASK", "detection")

    @property
    def task(self) -> Task:
        return task_named(self.task_name)

    @property
    def served(self) -> str:
        """The model that counts: "student" or "teacher"."""
        served = self.setting("TEST.SERVE", "student")
        return served if served in self.results or not self.results else next(iter(self.results))

    @property
    def stem(self) -> str:
        """The name without the seed, if it ends with it as in ``mic_3``."""
        return self.name.removesuffix(f"_{self.setting('SEED')}")

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for runs of one folder that differ in the seed alone, in name and in settings."""
        if self.stem == self.name:
            return (self.folder,)
        same = {key: value for key, value in flat(self.settings) if key not in OF_A_SEED}
        return self.folder.parent, self.stem, repr(sorted(same.items()))

    @property
    def method(self) -> str:
        """From the settings: parts such as SADA, CDAN and MIC, or source-only or oracle."""
        if self.parts:
            return " + ".join(self.parts)
        train, target = (set(self.setting(f"DATASETS.{k}") or ()) for k in ("TRAIN", "TARGET"))
        return "oracle" if train & target else "source-only"

    @property
    def parts(self) -> list[str]:
        """What the method is made of, MIC last."""
        parts = ["SADA"] if self.setting("MODEL.SADA.ENABLED") else []
        align = self.setting("MODEL.CLASSIFIER.ALIGN.METHOD", "none")
        parts += [align] if align != "none" else []
        parts += ["MCC"] if self.setting("MODEL.CLASSIFIER.MCC.WEIGHT") else []
        if self.task_name == "segmentation":
            host = self.setting("MODEL.SEG.HOST", SOURCE_ONLY)
            parts += [HOSTS.get(host, host)] if host != SOURCE_ONLY else []
            parts += ["HRDA"] if self.setting("MODEL.SEG.HRDA.ENABLED") else []
        parts += ["SDAT"] if self.setting("MODEL.CLASSIFIER.SAM_RHO") else []
        if self.setting("MODEL.MIC.ENABLED"):
            parts.append("MIC" if self.setting("MODEL.MIC.RATIO", 0.5) else "mean teacher")
        return parts

    def metrics(self, dataset: str, which: str | None = None) -> dict[str, float] | None:
        """What was measured of a model (the served one) on a test set."""
        found = self.results.get(which or self.served)
        found = found.get(dataset) if isinstance(found, dict) else None
        return found if isinstance(found, dict) and self.task.headline in found else None

    @property
    def datasets(self) -> list[str]:
        """Test sets with results."""
        return list(dict.fromkeys(name for _, name, _ in result_rows(self.results)))

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(iterations done, value) of a scalar, in order; a resumed run's later value counts."""
        found = {}
        for row in self.rows:
            value = row.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                found[row["iteration"] + 1] = float(value)
        return sorted(found.items())

    def scalars(self) -> list[str]:
        """Names of all scalars."""
        return sorted({name for row in self.rows for name in row} - {"iteration"})

    def inference_folder(self, dataset: str) -> Path:
        """Where the served model's predictions on a test set are, or would be."""
        return inference_folder(self.folder, self.served) / dataset

    def has_predictions(self, dataset: str) -> bool:
        folder = self.inference_folder(dataset)
        return all((folder / name).is_file() for name in self.task.files)


def find_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The runs in these folders or below them, methods in order of comparison, seeds together.

    Raises DataError for a folder that is not there or holds no run.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(f"{path}: no such folder")
        found = [path] if is_run(path) else sorted(filter(is_run, path.rglob("*")))
        if not found:
            raise DataError(
                f"{path}: no run in it: neither {CONFIG} nor {LAST_CONFIG} with a log or results. "
                "Give the OUTPUT_DIR of a training, or a folder of such."
            )
        folders |= dict.fromkeys(each.resolve() for each in found)
    runs = sorted(map(read_run, folders), key=lambda run: (_rank(run.method), run.name))
    _check_task(runs)
    _label(runs)
    return runs


def _rank(method: str) -> tuple[int, bool, int]:
    """Source-only, then methods of few parts before those of many, MIC last, oracle."""
    ends = {"source-only": 0, "oracle": 2}
    return ends.get(method, 1), "MIC" in method, method.count("+")


def _check_task(runs: Sequence[RunRecord]) -> None:
    names = {run.task_name: run.folder for run in runs}
    unread = [run for run in runs if not run.settings]
    if unread and len(names) > 1:
        raise DataError(f"{unread[0].config}: cannot be read, so that its task is not known.")
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        raise DataError(
            f"{names[unknown[0]]}: its MODEL.TASK is {unknown[0]!r}, which this version lacks. It "
            f"knows {', '.join(MODULES)}."
        )
    if len(names) > 1:
        told = "; ".join(f"{name}: {folder}" for name, folder in names.items())
        raise DataError(f"These runs are of several tasks ({told}). Report on one task at a time.")


def is_run(path: Path) -> bool:
    """Whether a training or an evaluation left something in this folder, if only its log."""
    left = ("metrics.json", RESULTS, "log.txt")
    return (path / CONFIG).is_file() or (
        (path / LAST_CONFIG).is_file() and any((path / name).is_file() for name in left)
    )


def _label(runs: Sequence[RunRecord]) -> None:
    """Short names and colours: the method where it says all, else with the folder's name."""
    groups = list(dict.fromkeys(run.group for run in runs))
    for style, group in enumerate(groups):
        for run in runs:
            if run.group == group:
                run.style = style
    firsts = first_of_groups(runs)
    ways = (
        lambda run: run.method,
        lambda run: f"{run.method}: {run.stem}",
        lambda run: f"{run.method}: {run.folder.parent.name}/{run.stem}",
        lambda run: f"{run.method}: {run.folder}",
    )
    for run in runs:
        for way in ways:
            run.label = way(run)
            if sum(way(other) == run.label for other in firsts) == 1:
                break


def read_run(folder: Path) -> RunRecord:
    """What a folder holds; what cannot be read is told in ``problems``."""
    run = RunRecord(folder)
    run.recorded = (folder / CONFIG).is_file()
    if not run.recorded:
        run.problems.append(
            f"it has no {CONFIG}, which a training leaves: its settings are those of the last "
            "command there, and it is not compared with others."
        )
    run.settings = _read(run, run.config.name, read_settings) or {}
    run.results = _read(run, RESULTS, _results) or {}
    run.measured = run.settings
    if (folder / RESULTS_CONFIG).is_file():
        run.measured = _read(run, RESULTS_CONFIG, read_settings) or {}
        run.measured_file = lookup(run.measured, "MODEL.WEIGHTS", "")
    if run.datasets and run.measured_file != FINAL:
        run.problems.append(f"its results are of {run.measured_file}, not of the end of training.")
    run.rows = _rows(_read(run, "metrics.json", str) or "")
    run.starts = read_starts(folder)
    log = folder / "log.txt"
    if log.is_file():
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
        run.versions = _recorded(run.starts) or _versions(text)
        times = re.findall(r"Total training time: ((?:\d+ days?, )?[\d:]+)", text)
        run.duration = times[-1] if times else ""
    return run


def _read(run: RunRecord, name: str, parse: Any) -> Any:
    path = run.folder / name
    if not path.is_file():
        missing = {
            "results.json": "it has no results.json: not finished, or never evaluated.",
            "metrics.json": "it has no metrics.json, so there are no curves of it.",
        }
        run.problems.append(missing[name])
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if parse is not str and not text.strip():
            raise ValueError("it is empty")
        found = parse(text)
        if parse is not str and not isinstance(found, dict):
            raise ValueError("not a mapping")
        return found
    except (OSError, ValueError, yaml.YAMLError) as error:
        run.problems.append(f"{name} cannot be read: {error}")
        return None


def _results(text: str) -> dict[str, Any]:
    """results.json: numbers by name of each model and test set; ValueError if it is not that."""
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ValueError("not a mapping of models to their results")
    rows = result_rows(found)
    for _, name, metrics in rows:
        if not all(isinstance(value, int | float | None) for value in metrics.values()):
            raise ValueError(f"not all results on {name} are numbers")
    if not rows:
        raise ValueError("no test set in it: nothing was evaluated")
    return found


def _rows(text: str) -> list[dict[str, float]]:
    """Lines of metrics.json; a line that a killed process cut short is left out."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "iteration" in row:
            rows.append(row)
    return rows


def _versions(log: str) -> dict[str, str]:
    """Versions from Detectron2's table of the environment, the last of the log."""
    table = log.rpartition("Environment info:")[2][:6000]
    found = {}
    for name in ENVIRONMENT:
        match = re.search(rf"^{name} +(\S+)", table, re.MULTILINE)
        if match:
            found[name] = match[1]
    gpu = re.search(r"^GPU 0[\d,]* +(.+)$", table, re.MULTILINE)
    return found | ({"GPU": gpu[1].strip()} if gpu else {})


def _recorded(starts: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Versions of the last start, where training recorded one."""
    if not starts:
        return {}
    last = starts[-1]
    found = {"git": last.get("git"), **(last.get("installation") or {})}
    return {name: str(version) for name, version in found.items()}


def first_of_groups(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """One run of each group of seeds."""
    chosen: dict[str, RunRecord] = {}
    for run in runs:
        chosen.setdefault(run.group, run)
    return list(chosen.values())


def by_group(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs that differ in the seed alone, together."""
    return [[run for run in runs if run.group == first.group] for first in first_of_groups(runs)]


def scores(runs: Sequence[RunRecord], dataset: str, metric: str, which: str | None = None) -> list:
    """A metric of each run that has it, in percent."""
    found = [run.metrics(dataset, which) for run in runs]
    values = [each[metric] for each in found if each is not None and each.get(metric) is not None]
    return [value for value in values if not math.isnan(value)]


def flat(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of all leaves of nested dicts."""
    if not isinstance(node, dict):
        return [(prefix, node)]
    dot = f"{prefix}." if prefix else ""
    return [pair for name, value in node.items() for pair in flat(value, f"{dot}{name}")]


def lookup(settings: dict[str, Any], key: str, default: Any = None) -> Any:
    """The value of a dotted key in nested dicts; ``default`` if it is not there."""
    node: Any = settings
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node
