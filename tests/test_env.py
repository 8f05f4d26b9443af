"""What `python -m mic_det.env` says of an installation, and what it would add to it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mic_det import env


def report(*first_on_path: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join(map(str, first_on_path))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mic_det.env"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def row(done: subprocess.CompletedProcess, name: str) -> str:
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())[name]


def needed_by(*names: str) -> set[str]:
    """Distributions that installing these brings, themselves included; no extras."""
    found, waiting = set(), [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        for each in map(Requirement, wanted):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(each.name))
    return found


def test_detectron2_is_named():
    done = report()
    assert done.returncode == 0
    assert Path(row(done, "detectron2").rsplit(", ", 1)[1]).name == "detectron2"


@pytest.mark.parametrize("broken", ["omegaconf", "fvcore"])
def test_detectron2_that_cannot_be_imported_is_reported(tmp_path, broken):
    (tmp_path / f"{broken}.py").write_text(f"raise ImportError('{broken} is gone')")
    done = report(tmp_path)
    assert done.returncode == 1
    said = row(done, "detectron2")
    assert said.endswith(f"broken: {broken} is gone (python -m mic_det.env --install)")


@pytest.mark.skipif(
    not env._is_copy(env.detectron2_path()), reason="your own Detectron2 brings what it needs"
)
def test_an_installation_without_the_requirements_file_has_all_that_detectron2_imports():
    listing = "\n".join(
        [f"import detectron2.{part}" for part in (*env.DETECTRON2_PARTS, "model_zoo")]
        + ["import sys", "print(*{name.partition('.')[0] for name in sys.modules})"]
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", listing], capture_output=True, text=True, check=True
    )
    origin = importlib.metadata.packages_distributions()
    brought = needed_by("mic_det", *(Requirement(n).name for n in env.CARRIED_NEEDS.values()))
    for module in done.stdout.split():
        distributions = {canonicalize_name(name) for name in origin.get(module, ())}
        assert not distributions or distributions & brought, module


@pytest.mark.parametrize(
    ("there", "asked_for"),
    [
        (set(env.CARRIED_NEEDS), []),
        (set(env.CARRIED_NEEDS) - {"hydra", "omegaconf"}, ["omegaconf>=2.1", "hydra-core>=1.1"]),
    ],
)
def test_only_what_the_copy_lacks_is_installed(monkeypatch, there, asked_for):
    calls = []
    folder = Path("/site", env.CARRIER_FOLDER, "detectron2")
    monkeypatch.setattr(env, "detectron2_path", lambda: folder)
    monkeypatch.setattr(env, "_has_module", there.__contains__)
    monkeypatch.setattr(env, "_pip_install", lambda *names: calls.extend(names))
    assert env.install() == folder
    assert calls == asked_for


def test_nothing_is_installed_beside_your_own_detectron2(monkeypatch):
    monkeypatch.setattr(env, "detectron2_path", lambda: Path("/mine/detectron2"))
    monkeypatch.setattr(env, "_has_module", lambda name: False)
    monkeypatch.setattr(env, "_pip_install", lambda *names: pytest.fail(f"installs {names}"))
    assert env.install() == Path("/mine/detectron2")
