"""The yardstick of finishing: the same picture decoded, cropped, resized and encoded by Pillow alone."""

import io
import os
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from tests.bench import figures


def _finish(body: bytes, size: tuple[int, int]) -> bytes:
    picture = Image.open(io.BytesIO(body), formats=("JPEG",))
    picture.load()
    width, height = picture.size
    scale = min(width / size[0], height / size[1])
    used = (size[0] * scale, size[1] * scale)
    left, top = (width - used[0]) / 2, (height - used[1]) / 2
    box = (left, top, left + used[0], top + used[1])
    made = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0).save(made, "JPEG", quality=90)
    return made.getvalue()


def main() -> None:
    """Print pictures per second with a thread for each core, then seconds for one alone."""
    chosen = figures.options()
    body, count = pathlib.Path(chosen["picture"]).read_bytes(), chosen["count"]
    size = (chosen["width"], chosen["height"])
    _finish(body, size)
    alone = []
    for _ in range(5):
        began = time.perf_counter()
        _finish(body, size)
        alone.append(time.perf_counter() - began)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: _finish(body, size), range(count)))
        took = time.perf_counter() - began
    print(count / took, sorted(alone)[2])


main()
