"""Small domain heads and what is put before them; numbers and loops to hold them against."""

import math

import torch
from detectron2.structures import Boxes

from mic_det.detection import SADAHeads


def bce(logit, label):
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability) if label == 1 else -math.log(1 - probability)


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def slow_upsample(rows, height, width):
    """Bilinear, corners aligned, of a list of rows."""
    h, w = len(rows), len(rows[0])
    result = []
    for y in range(height):
        v = y * (h - 1) / (height - 1) if height > 1 else 0.0
        line = []
        for x in range(width):
            u = x * (w - 1) / (width - 1) if width > 1 else 0.0
            y0, x0 = min(int(v), h - 1), min(int(u), w - 1)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = (1 - (u - x0)) * rows[y0][x0] + (u - x0) * rows[y0][x1]
            bottom = (1 - (u - x0)) * rows[y1][x0] + (u - x0) * rows[y1][x1]
            line.append((1 - (v - y0)) * top + (v - y0) * bottom)
        result.append(line)
    return result


def slow_image_loss(maps, sizes, stride, label):
    height, width = maps[0].shape[-2:]
    of_images = []
    for image, (pixels_high, pixels_wide) in enumerate(sizes):
        values = []
        for level in maps:
            full = slow_upsample(level[image, 0].tolist(), height, width)
            for y in range(math.ceil(pixels_high / stride)):
                for x in range(math.ceil(pixels_wide / stride)):
                    values.append(bce(full[y][x], label))
        of_images.append(sum(values) / len(values))
    return sum(of_images) / len(of_images)


def tiny_heads(levels=2, pooled=None, spread=0.5, **kwargs):
    heads = SADAHeads(
        image_channels=[6] * levels,
        strides=[4 * 2**i for i in range(levels)],
        instance_channels=10,
        pooled_levels=pooled or levels,
        **({"image_hidden": 7, "instance_hidden": 9} | kwargs),
    )
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.normal_(0.0, spread)
    return heads.eval()  # no dropout


def boxes_of(*rows):
    return Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))


def side(features, sizes, boxes, levels, channels=10):
    count = sum(len(each) for each in boxes)
    return {
        "features": features,
        "image_sizes": sizes,
        "boxes": boxes,
        "box_features": torch.randn(count, channels),
        "levels": torch.tensor(levels, dtype=torch.int64),
    }


def random_side(images=1, per_image=5, levels=2):
    """32 x 48 pixels, maps of strides 4, 8, ..."""
    features = [torch.randn(images, 6, 8 // 2**i, 12 // 2**i) for i in range(levels)]
    boxes = []
    for _ in range(images):
        corner = torch.rand(per_image, 2) * torch.tensor([30.0, 18.0])
        boxes.append(Boxes(torch.cat([corner, corner + 2 + 12 * torch.rand(per_image, 2)], 1)))
    of_level = torch.randint(0, levels, (images * per_image,)).tolist()
    return side(features, [(32, 48)] * images, boxes, of_level)
