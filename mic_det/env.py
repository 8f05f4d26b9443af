"""Where Detectron2 comes from, and what else this installation is made of.

Upstream Detectron2 is on no package index. Somebody who has it already, from its repository or from
conda, keeps theirs. For everybody else Kitware's ``geowatch`` wheel (Apache-2.0) carries a recent
copy as plain Python; ``python -m mic_det.env --install`` installs that wheel without its own many
dependencies, then what the copy imports, and puts the copy on the path of this environment. No
other module of the project knows about this.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

CARRIER = "geowatch"
CARRIER_VERSION = "0.20.0"
CARRIER_FOLDER = "geowatch_tpl/submodules_static/detectron2"
PATH_FILE = "mic_det_detectron2.pth"
# What the copy imports and mic_det does not, by module: setup.py cannot ask for it.
CARRIED_NEEDS = {
    "cloudpickle": "cloudpickle",
    "omegaconf": "omegaconf>=2.1",
    "hydra": "hydra-core>=1.1",
    "kwimage": "kwimage",
    "packaging": "packaging",
    # Detectron2's model zoo; later ones are without it.
    "pkg_resources": "setuptools<81",
}

DETECTRON2_PARTS = ("config", "data", "engine", "evaluation", "modeling")
REPORTED = (
    "torch",
    "torchvision",
    "numpy",
    "pycocotools",
    "fvcore",
    "iopath",
    "opencv-python",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
    "timm",
)


def detectron2_path() -> Path | None:
    """Folder of the ``detectron2`` package that Python finds here, None if there is none."""
    spec = importlib.util.find_spec("detectron2")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def require_detectron2() -> None:
    """Raise ImportError with the way out when Detectron2 cannot be imported."""
    if detectron2_path() is None:
        raise ImportError(
            "Detectron2 is not installed in this environment. Either install it the upstream way, "
            "or run `python -m mic_det.env --install`, which fetches a copy from the package index."
        )


def install() -> Path:
    """Make ``import detectron2`` work in this environment; do nothing where it works already.

    Returns the package's folder. Raises RuntimeError when the wheel does not hold what it should.
    """
    found = detectron2_path()
    if found is None:
        found = _install_copy()
    if _is_copy(found):
        missing = [need for name, need in CARRIED_NEEDS.items() if not _has_module(name)]
        if missing:
            _pip_install(*missing)
    return found


def _install_copy() -> Path:
    _pip_install("--no-deps", f"{CARRIER}=={CARRIER_VERSION}")
    site = Path(sysconfig.get_paths()["purelib"])
    folder = site / CARRIER_FOLDER
    if not (folder / "detectron2" / "__init__.py").is_file():
        raise RuntimeError(f"{CARRIER} {CARRIER_VERSION} holds no Detectron2 at {folder}")
    (site / PATH_FILE).write_text(f"{folder}\n", encoding="utf-8")
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    return folder / "detectron2"


def _pip_install(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments], check=True)
    importlib.invalidate_caches()


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _is_copy(folder: Path) -> bool:
    """Whether this Detectron2 is the one that the wheel carries."""
    return CARRIER_FOLDER in folder.as_posix()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def import_problem() -> str:
    """Why the parts of Detectron2 that are used cannot be imported; "" if they can be."""
    folder = detectron2_path()
    if folder is None:
        return "missing"
    try:
        for part in DETECTRON2_PARTS:
            importlib.import_module(f"detectron2.{part}")
    except ImportError as error:
        return f"{folder}, broken: {error}"
    return ""


def describe() -> dict[str, str]:
    """Versions and devices of this installation, as printed here and recorded with each run."""
    rows = {"python": platform.python_version(), "platform": platform.platform()}
    rows |= {name: found for name in REPORTED if (found := _version(name)) is not None}
    folder, problem = detectron2_path(), import_problem()
    if problem:
        rows["detectron2"] = f"{problem} (python -m mic_det.env --install)"
    else:
        version = importlib.import_module("detectron2").__version__
        origin = f"the copy in {CARRIER} {_version(CARRIER)}" if _is_copy(folder) else "your own"
        rows["detectron2"] = f"{version}, {origin}, {folder}"
    if _has_module("torch"):
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        rows["gpu"] = ", ".join(gpus) or f"none; {torch.get_num_threads()} CPU threads"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="What mic_det found on this machine.")
    parser.add_argument("--install", action="store_true", help="bring Detectron2 if it is missing")
    if parser.parse_args().install:
        install()
    rows = describe()
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
    if import_problem():
        sys.exit(1)


if __name__ == "__main__":
    main()
