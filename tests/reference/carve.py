import math

import numpy as np


def resized(image, height, width):
    """Bilinear, half-pixel centres, edges held."""
    rows, columns = image.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            sy, sx = (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5
            fy, fx = math.floor(sy), math.floor(sx)

            def at(a, b):
                return image[min(max(a, 0), rows - 1), min(max(b, 0), columns - 1)]

            # Equal neighbours give themselves, so that pixels beyond an edge tie exactly.
            top = at(fy, fx) + (sx - fx) * (at(fy, fx + 1) - at(fy, fx))
            low = at(fy + 1, fx) + (sx - fx) * (at(fy + 1, fx + 1) - at(fy + 1, fx))
            out[y, x] = top + (sy - fy) * (low - top)
    return out


def regions_of(mask):
    """Sets of 4-connected pixels, in the order of their first."""
    left, found = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask))}, []
    while left:
        region, open_ = set(), [min(left)]
        while open_:
            y, x = open_.pop()
            if (y, x) in left:
                left.remove((y, x))
                region.add((y, x))
                open_ += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        found.append(region)
    return found


def carve(attn_task, attn_general, *, height, width, image_height, image_width, lam=1e-8, layers=None,
          step_mode="all", strategy="attention_sum", top_percent=0.2, min_keep_regions=3, outlier_percent=0.1):
    task = attn_task.mean(3) if attn_task.ndim == 5 else attn_task
    general = attn_general.mean(3) if attn_general.ndim == 5 else attn_general
    batch = len(task)
    maps = np.zeros((batch, image_height, image_width))
    masks, boxes = np.zeros(maps.shape, bool), np.zeros((batch, 4), np.int32)
    for b in range(batch):
        for u in range(min(task.shape[1], general.shape[1]) if step_mode == "all" else 1):
            for layer in range(task.shape[2]) if layers is None else layers:
                contrast = (task[b, u, layer] / (general[b, u, layer] + lam)).reshape(height, width)
                maps[b] += (u + 1) * resized(contrast, image_height, image_width)
        values = np.sort(maps[b].ravel())
        rank = (1 - top_percent) * (len(values) - 1)
        below = math.floor(rank)
        limit = values[below] + (rank - below) * (values[min(below + 1, len(values) - 1)] - values[below])
        regions = regions_of(maps[b] >= limit)
        if strategy == "remove_small":
            least = int(sum(map(len, regions)) * outlier_percent / 100)
            kept = [region for region in regions if len(region) >= least]
        else:
            score = len if strategy == "size" else lambda region: sum(maps[b][pixel] for pixel in region)
            ranked = sorted(range(len(regions)), key=lambda r: (-score(regions[r]), r))
            kept = [regions[r] for r in ranked[: max(min_keep_regions, int(len(regions) * top_percent))]]
        pixels = [pixel for region in kept for pixel in region]
        for pixel in pixels:
            masks[(b, *pixel)] = True
        if pixels:
            ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
            boxes[b] = min(xs), min(ys), max(xs) + 1, max(ys) + 1
        else:
            boxes[b] = 0, 0, image_width, image_height
    return {"map": maps, "mask": masks, "bbox": boxes}
