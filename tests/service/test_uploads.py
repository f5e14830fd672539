"""Pictures as people send them over HTTP: what is taken, what is made of it, and what is refused."""

import asyncio
import io
import struct
import zlib

import pytest
import pytest_asyncio
from PIL import Image

from nanohook.web import slots
from tests import rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST_BYTES = 200_000
MOST_PIXELS = 2_000_000
PROBLEM = "application/problem+json"
ORIENTATION, DESCRIPTION = 0x0112, 0x010E


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    async with rig.running(folder, max_upload_bytes=MOST_BYTES, max_pixels=MOST_PIXELS) as running:
        yield running


def drawn(size=(60, 40), mode="RGB"):
    """Something with structure, so that a wrong turn or crop shows."""
    image = Image.linear_gradient("L").resize(size)
    image.paste(255, (0, 0, size[0] // 3, size[1] // 4))
    return image.convert(mode)


def encoded(image, kind, **options):
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def exif(orientation):
    made = Image.Exif()
    made[ORIENTATION] = orientation
    made[DESCRIPTION] = "a secret place"
    return made.tobytes()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, *, bits=8, colour=0, data=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


def many_scans(number):
    """A progressive JPEG whose last scan is repeated."""
    body = encoded(drawn(), "JPEG", progressive=True)
    last = body.rindex(b"\xff\xda")
    return body[:last] + body[last:-2] * number + b"\xff\xd9"


def frames(kind):
    first, second = drawn((50, 30)), Image.new("RGB", (50, 30), "red")
    return encoded(first, kind, save_all=True, append_images=[second], duration=100)


def transparent_palette():
    image = drawn(mode="L").quantize(16)
    image.info["transparency"] = 0
    return encoded(image, "PNG", transparency=0)


async def send(service, body, *, name="x.png", field="file", more=None):
    return await service.client.post("/api/images", files={field: (name, body)}, data=more)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == PROBLEM


async def stored(service, picture):
    """Fetch a picture's bytes; check that they are what the answer says."""
    answer = await service.client.get(picture["url"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == picture["content_type"]
    assert len(answer.content) == picture["bytes"]
    image = Image.open(io.BytesIO(answer.content))
    image.load()
    assert image.size == (picture["width"], picture["height"])
    assert Image.MIME[image.format] == picture["content_type"]
    return image, answer.content


GOOD = {
    "jpeg": (lambda: encoded(drawn(), "JPEG"), "image/jpeg"),
    "progressive jpeg": (lambda: encoded(drawn(), "JPEG", progressive=True), "image/jpeg"),
    "cmyk jpeg": (lambda: encoded(drawn(mode="CMYK"), "JPEG"), "image/jpeg"),
    "grey jpeg": (lambda: encoded(drawn(mode="L"), "JPEG"), "image/jpeg"),
    "png": (lambda: encoded(drawn(), "PNG"), "image/png"),
    "transparent png": (lambda: encoded(drawn(mode="RGBA"), "PNG"), "image/png"),
    "palette png": (lambda: encoded(drawn().quantize(16), "PNG"), "image/png"),
    "transparent palette png": (transparent_palette, "image/png"),
    "16 bit png": (lambda: encoded(drawn(mode="L").convert("I;16"), "PNG"), "image/png"),
    "1 bit png": (lambda: encoded(drawn(mode="1"), "PNG"), "image/png"),
    "webp": (lambda: encoded(drawn(), "WEBP"), "image/webp"),
    "lossless webp": (lambda: encoded(drawn(mode="RGBA"), "WEBP", lossless=True), "image/webp"),
    "gif": (lambda: encoded(drawn().quantize(16), "GIF"), "image/png"),
    "one pixel": (lambda: encoded(drawn((1, 1)), "PNG"), "image/png"),
    "a line": (lambda: encoded(drawn((900, 1)), "JPEG"), "image/jpeg"),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_picture_of_every_kind_is_taken_and_its_job_completes_at_its_size(service, name):
    make, content_type = GOOD[name]
    body = make()
    size = Image.open(io.BytesIO(body)).size
    answer = await send(service, body, name="wrong.txt")
    assert answer.status_code == 201, answer.text
    job = answer.json()
    original = job["original"]
    assert (original["width"], original["height"]) == size
    assert original["content_type"] == content_type
    assert (job["status"], job["stage"], job["progress"], job["attempt"]) == ("PENDING", "uploaded", 0, 0)
    image, _ = await stored(service, original)
    assert image.mode in {"L", "RGB", "RGBA"}
    await service.generate(imageId=job["job_id"])
    ended = await service.ended(job["job_id"])
    assert ended["status"] == "COMPLETED", ended["error"]
    [result] = ended["images"]
    assert (result["width"], result["height"]) == size
    await stored(service, result)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
async def test_a_turned_picture_is_kept_upright_and_without_metadata(service, kind, orientation):
    body = encoded(drawn((60, 40)), kind, exif=exif(orientation), comment=b"a secret place")
    answer = await send(service, body)
    job = answer.json()
    size = (60, 40) if orientation in {1, 3} else (40, 60)
    assert (job["original"]["width"], job["original"]["height"]) == size
    image, kept = await stored(service, job["original"])
    assert not image.getexif()
    assert b"secret" in body
    assert b"secret" not in kept
    assert b"Exif" not in kept
    small = await service.client.get(job["original"]["thumbnail_url"])
    assert b"secret" not in small.content


async def test_what_nanobanana_fetches_has_no_metadata_and_the_result_is_upright(service):
    answer = await send(service, encoded(drawn((60, 40)), "JPEG", exif=exif(6)))
    job = answer.json()
    await service.generate(imageId=job["job_id"])
    ended = await service.ended(job["job_id"])
    assert (ended["images"][0]["width"], ended["images"][0]["height"]) == (40, 60)
    [url] = service.upstream.by_id[ended["tasks"][0]["task_id"]].order.image_urls
    fetched = (await service.client.get(url, headers={"Authorization": ""})).content
    assert b"secret" not in fetched
    assert Image.open(io.BytesIO(fetched)).size == (40, 60)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
async def test_of_an_animation_the_first_frame_is_kept(service, kind):
    answer = await send(service, frames(kind))
    assert answer.status_code == 201, answer.text
    image, _ = await stored(service, answer.json()["original"])
    assert getattr(image, "n_frames", 1) == 1
    assert image.size == (50, 30)
    # The second frame is all red.
    red, green, _ = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert abs(red - green) < 40


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
NAMES = {
    "HEIC": HEIC,
    "AVIF": encoded(drawn(), "AVIF"),
    "TIFF": encoded(drawn(), "TIFF"),
    "BMP": encoded(drawn(), "BMP"),
    "JPEG XL": b"\xff\x0a" + bytes(100),
    "PDF": b"%PDF-1.7\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "HTML": b"<!doctype html><title>x</title>",
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_refusal_names_the_format_that_came(service, name):
    answer = await send(service, NAMES[name], name="photo.jpg")
    refused(answer, 415, "unknown_media_type")
    assert name in answer.json()["detail"]


BAD = {
    "nothing": (b"", 422, "empty"),
    "text": (b"this is not a picture", 415, "unknown_media_type"),
    "html": (b"<html><script>alert(1)</script></html>", 415, "unknown_media_type"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', 415, "unknown_media_type"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", 415, "unknown_media_type"),
    "bmp": (encoded(drawn(), "BMP"), 415, "unknown_media_type"),
    "tiff": (encoded(drawn(), "TIFF"), 415, "unknown_media_type"),
    "avif": (encoded(drawn(), "AVIF"), 415, "unknown_media_type"),
    "heic": (HEIC, 415, "unknown_media_type"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, 415, "unknown_media_type"),
    "half a jpeg": (encoded(drawn((300, 200)), "JPEG")[:-400], 422, "truncated"),
    "a cut jpeg, closed": (encoded(drawn((300, 200)), "JPEG")[:-400] + b"\xff\xd9", 422, "truncated"),
    "a progressive jpeg, cut and closed": (
        encoded(drawn((300, 200)), "JPEG", progressive=True)[:-400] + b"\xff\xd9",
        422,
        "truncated",
    ),
    "half a png": (encoded(drawn((300, 200)), "PNG")[:-400], 422, "truncated"),
    "half a webp": (encoded(drawn((300, 200)), "WEBP")[:-100], 422, "truncated"),
    "half a gif": (encoded(drawn((300, 200)).quantize(16), "GIF")[:-400], 422, "truncated"),
    "a signature alone": (b"\x89PNG\r\n\x1a\n", 422, None),
    "a jpeg's first bytes": (b"\xff\xd8\xff", 422, None),
    "zeros after a signature": (b"\x89PNG\r\n\x1a\n" + b"\0" * 1_000, 422, None),
    "no pixels": (png(0, 0), 422, None),
    "too many pixels": (encoded(Image.new("L", (2_001, 1_000)), "PNG"), 422, "too_many_pixels"),
    "too wide": (encoded(Image.new("L", (16_384, 1)), "PNG"), 422, "too_many_pixels"),
    "too high": (encoded(Image.new("L", (1, 16_384)), "PNG"), 422, "too_many_pixels"),
    "a bomb": (png(50_000, 50_000, data=b"\0" * 1_000_000), 422, "too_many_pixels"),
    "a bomb of one row": (png(2**31 - 1, 1), 422, "too_many_pixels"),
    "fewer pixels than declared": (png(900, 900, data=b"\0" * 100), 422, None),
    "a thousand scans": (many_scans(1_000), 422, "too_many_scans"),
    "noise after a signature": (b"\xff\xd8\xff" + bytes(range(256)) * 8, 422, None),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_usable_picture_is_refused_and_leaves_nothing(service, name):
    body, status, code = BAD[name]
    before = await listed(service)
    files = files_of(service)
    # Neither the name nor the type that is claimed counts.
    answer = await service.client.post("/api/images", files={"file": ("x.png", body, "image/png")})
    assert answer.status_code == status, answer.text
    refused(answer, status, code or answer.json()["code"])
    assert await listed(service) == before
    assert files_of(service) == files


async def listed(service):
    answer = await service.client.get("/api/images", params={"limit": 200})
    return [image["job_id"] for image in answer.json()["images"]]


def files_of(service):
    return sorted(path for path in service.parts.settings.data_dir.glob("media/originals/**/*") if path.is_file())


def form(body, *, head='name="file"; filename="x.png"'):
    """A multipart body, by hand."""
    lines = (b"--edge", f"Content-Disposition: form-data; {head}".encode(), b"", body, b"--edge--", b"")
    return b"\r\n".join(lines)


async def post(service, body, *, content_type="multipart/form-data; boundary=edge"):
    headers = {"Content-Type": content_type}
    return await service.client.post("/api/images", content=body, headers=headers)


async def test_a_picture_over_the_limit_is_413(service):
    noise = encoded(Image.effect_noise((600, 600), 90), "PNG")
    assert len(noise) > MOST_BYTES
    refused(await send(service, noise), 413, "too_large")
    # Beyond what the form around it may need, it is refused by what it declares, and by what comes.
    refused(await send(service, noise * 3), 413, "too_large")

    async def streamed():
        whole = form(noise * 3)
        for start in range(0, len(whole), 50_000):
            yield whole[start : start + 50_000]

    refused(await post(service, streamed()), 413, "too_large")


async def test_a_picture_at_the_limit_is_taken(service):
    picture = encoded(drawn(), "PNG")
    rest = MOST_BYTES - len(picture)
    # Bytes after the end of a picture are no part of it.
    answer = await send(service, picture + b"\0" * rest)
    assert answer.status_code == 201
    refused(await send(service, picture + b"\0" * (rest + 1)), 413, "too_large")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "image/png", "application/x-www-form-urlencoded", "multipart/mixed; boundary=edge", ""],
)
async def test_a_body_that_is_no_form_is_415(service, content_type):
    refused(await post(service, encoded(drawn(), "PNG"), content_type=content_type), 415, "unknown_media_type")


async def test_the_name_of_a_content_type_has_no_case(service):
    answer = await post(service, form(encoded(drawn(), "PNG")), content_type="Multipart/Form-Data; boundary=edge")
    assert answer.status_code == 201


async def test_a_form_without_the_field_is_422(service):
    for answer in (
        await send(service, encoded(drawn(), "PNG"), field="photo"),
        await post(service, form(b"text", head='name="file"')),
        await post(service, b"--edge--\r\n"),
    ):
        refused(answer, 422, "invalid")
        assert [line["field"] for line in answer.json()["errors"]] == ["file"]


async def test_of_two_files_none_is_taken(service):
    before = await listed(service)
    body = encoded(drawn(), "PNG")
    both = [("file", ("a.png", body)), ("file", ("b.png", body))]
    answer = await service.client.post("/api/images", files=both)
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == PROBLEM
    assert await listed(service) == before


BROKEN_FORMS = {
    "nothing": b"",
    "no edge": b"nothing of the kind",
    "half": form(b"picture")[:-20],
    "no name": form(b"picture", head='filename="x.png"'),
    "no head": b"--edge\r\n\r\npicture\r\n--edge--\r\n",
    "long head": form(b"picture", head='name="file"; filename="' + "x" * 40_000 + '"'),
    "long field": form(b"x" * 5_000, head='name="project_id"'),
    "many fields": b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % number for number in range(50)
    )
    + b"--edge--\r\n",
}


@pytest.mark.parametrize("name", BROKEN_FORMS)
async def test_a_form_that_cannot_be_read_is_refused(service, name):
    answer = await post(service, BROKEN_FORMS[name])
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 5_000,
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary=\xe9",
        "multipart/form-data; boundary=other",
    ],
)
async def test_an_edge_that_cannot_be_found_is_refused(service, content_type):
    answer = await post(service, form(encoded(drawn(), "PNG")), content_type=content_type.encode("latin-1"))
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    "charset",
    ["unicode_escape", "raw_unicode_escape", "undefined", "idna", "punycode", "hex", "utf-16", "utf-7", "none"],
)
async def test_whatever_charset_a_form_names_there_is_no_fault(service, charset):
    """The form's own fields are read with it: it may be a codec that fails in ways of its own."""
    parts = b'--edge\r\nContent-Disposition: form-data; name="project_id"\r\n\r\n\\ud800\xff\r\n'
    body = parts + form(encoded(drawn(), "PNG"))
    answer = await post(service, body, content_type=f"multipart/form-data; boundary=edge; charset={charset}")
    assert answer.status_code < 500, answer.text
    assert (await service.client.get("/api/images")).status_code == 200


async def test_as_many_uploads_at_once_as_there_are_places_are_all_taken(service):
    bodies = [encoded(drawn((200 + number, 100)), "JPEG") for number in range(slots.MOST_OF_ONE)]
    answers = await asyncio.gather(*(send(service, body) for body in bodies))
    assert [(answer.status_code, answer.json()["original"]["width"]) for answer in answers] == [
        (201, 200 + number) for number in range(slots.MOST_OF_ONE)
    ]
