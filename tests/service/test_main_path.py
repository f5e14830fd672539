"""Upload → task → signed callback → finished picture → waiting browser."""

import io

import pytest
from PIL import Image

from tests import rig


async def test_a_picture_comes_back_at_exactly_its_own_size(tmp_path):
    async with rig.running(tmp_path) as service:
        job = await service.upload(rig.picture(321, 179))
        started = await service.generate(imageId=job["job_id"])
        assert started["job_id"] == job["job_id"]

        ended = await service.ended(job["job_id"])
        assert ended["status"] == "COMPLETED"
        [image] = ended["images"]
        assert (image["width"], image["height"]) == (321, 179)
        body = (await service.client.get(image["url"])).content
        assert Image.open(io.BytesIO(body)).size == (321, 179)


@pytest.mark.parametrize("model", ["nano-banana", "nano-banana-pro", "nano-banana-2"])
async def test_text_alone_makes_a_picture_with_every_model(tmp_path, model):
    async with rig.running(tmp_path) as service:
        started = await service.generate(model=model)
        ended = await service.ended(started["job_id"])
        assert ended["status"] == "COMPLETED", ended
