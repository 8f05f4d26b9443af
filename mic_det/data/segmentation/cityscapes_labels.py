"""The label ids of Cityscapes, which ACDC, Dark Zurich and GTA5 share, and its 19 train ids."""

from __future__ import annotations

#: Name, label id and colour of the classes of the benchmark, in the order of the train ids 0..18.
_CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

CLASSES = tuple(name for name, _, _ in _CLASSES)
COLOURS = {name: colour for name, _, colour in _CLASSES}

#: Classes that SYNTHIA shares with Cityscapes: 16, and the 13 that older papers report.
CLASSES_16 = tuple(name for name in CLASSES if name not in ("terrain", "truck", "train"))
CLASSES_13 = tuple(name for name in CLASSES_16 if name not in ("wall", "fence", "pole"))

#: ``label_map`` of ``*_labelIds.png``. 0..34 are label ids (34: the licence plate of GTA5), and 255
#: is the id -1 of Cityscapes' licence plate.
LABEL_IDS: dict[int, str] = {
    **dict.fromkeys((*range(35), 255), "ignore"),
    **{number: name for name, number, _ in _CLASSES},
}

#: ``label_map`` of SYNTHIA-RAND-CITYSCAPES (0 void, 13 parking slot, 14 road work, 22 lanes).
SYNTHIA_IDS: dict[int, str] = {
    **dict.fromkeys((0, 13, 14, 22), "ignore"),
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    15: "traffic light",
    16: "terrain",
    17: "rider",
    18: "truck",
    19: "bus",
    20: "train",
    21: "wall",
}
