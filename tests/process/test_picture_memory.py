"""Pictures of extreme size and shape in a process of their own: what they cost at their peak, and who waits."""

import io
import json
import pathlib
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image

from nanohook.rules import imaging
from tests import lag

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc")

MOST_PIXELS = 40_000_000
SQUARE = (6_324, 6_324)


def encoded(kind, mode, size, options):
    tile, image = Image.effect_noise((256, 256), 40), Image.new("L", size)
    for y in range(0, size[1], 256):
        for x in range(0, size[0], 256):
            image.paste(tile, (x, y))
    image = image if mode == "L" else Image.merge(mode, [image] * len(mode))
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


SHAPES = {
    "progressive JPEG": ("JPEG", "RGB", SQUARE, {"progressive": True, "subsampling": 0, "quality": 60}),
    "transparent PNG": ("PNG", "RGBA", SQUARE, {"compress_level": 1}),
    "lossless WebP": ("WEBP", "RGBA", SQUARE, {"lossless": True, "method": 0, "quality": 0}),
    "AVIF": ("AVIF", "RGB", (3_000, 3_000), {"speed": 10, "quality": 40}),
    "TIFF of one strip": ("TIFF", "RGBA", SQUARE, {"compression": "tiff_lzw", "tiffinfo": {278: 6_324}}),
    "high": ("PNG", "RGBA", (610, 65_535), {"compress_level": 1}),
    "wide": ("PNG", "RGBA", (65_535, 610), {"compress_level": 1}),
    "a column": ("PNG", "RGB", (1, 65_535), {}),
    "a row": ("PNG", "RGB", (65_535, 1), {}),
}
TARGET = (16_383, 2_441)


@pytest.mark.parametrize("name", SHAPES)
def test_a_picture_needs_at_most_700_mb_and_what_was_estimated(name):
    command = [sys.executable, "-m", "tests.process.test_picture_memory", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    peak_bytes, estimated_bytes = json.loads(done.stdout)
    assert peak_bytes < 700_000_000
    assert peak_bytes < estimated_bytes + 20_000_000


@pytest.mark.parametrize("name", ["a column", "a row"])
def test_a_thin_picture_holds_nobody_up(name):
    body = encoded(*SHAPES[name])
    running = threading.Thread(target=finish, args=(body, None))
    started = last = time.perf_counter()
    running.start()
    longest_s = 0.0
    while running.is_alive():
        time.sleep(0.002)
        now = time.perf_counter()
        longest_s, last = max(longest_s, now - last), now
    assert longest_s < 0.25 * lag.crowd()
    assert last - started < 5 * lag.crowd()


def finish(body, target):
    return imaging.finish(body, size=target, fit="stretch", output_format="jpg", most_pixels=MOST_PIXELS)


def high_water_bytes():
    [line] = [
        line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


def measure(name):
    body = encoded(*SHAPES[name])
    probe = imaging.probe_result(body, most_pixels=MOST_PIXELS)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before_bytes = high_water_bytes()
    finish(body, TARGET)
    return high_water_bytes() - before_bytes, probe.memory_bytes(TARGET)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
