"""Package description; pinned versions, as CI runs them, are in requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="mic_det",
    version="0.1.0",
    description="Masked Image Consistency for domain-adaptive detection, on Detectron2",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mic_det", "mic_det.*"]),
    package_data={"mic_det.report": ["page.css", "page.js"]},
    python_requires=">=3.10",
    # Detectron2 is not listed: upstream is on no package index. `python -m mic_det.env --install`
    # (which `make` runs) keeps one that is already there and brings one where there is none.
    install_requires=[
        # Before 2.6 torch.load(weights_only=True) could be made to run code.
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5",
        "iopath>=0.1.9",
        "pycocotools>=2.0.8",
        "numpy>=1.26",
        "opencv-python-headless>=4.9",
        "pillow>=10",
        "pyyaml>=5.4",
        "matplotlib>=3.8",
        "scikit-learn>=1.3",
        "tabulate>=0.9",
        "tensorboard>=2.15",
        "termcolor>=2",
        "timm>=1.0",
        "tqdm>=4.60",
        # SegFormer's encoders.
        "transformers>=4.40",
        "yacs>=0.1.8",
    ],
    extras_require={"test": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6"]},
)
