"""Generated inspection sets: pictures of noise, some with a white square, and its mask."""

from __future__ import annotations

import numpy as np
from PIL import Image

LAYOUTS = {
    "mvtec": ("train/good", "test/good", "test/hole", "ground_truth/hole", "_mask"),
    "visa": ("Data/Images/Normal", "Data/Images/Normal", "Data/Images/Anomaly", "Data/Masks/Anomaly", ""),
}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def category(root, layout="mvtec", n=4, size=(12, 20)):
    """Noise; defective image k has a white square of k + 2 pixels a side at the upper left, and its mask."""
    rng = np.random.default_rng(0)
    train, good, hole, masks, suffix = LAYOUTS[layout]
    for folder, numbers in ((train, range(n)), (good, range(n, 2 * n)), (hole, range(n))):
        for k in numbers:
            pixels = rng.integers(0, 100, size, np.uint8)
            if folder == hole:
                mask = np.zeros(size, np.uint8)
                mask[: k + 2, : k + 2] = 255 if layout == "mvtec" else 3
                pixels[mask > 0] = 255
                save(root / masks / f"{k}{suffix}.png", mask)
            save(root / folder / f"{k}.png", pixels)
    return root
