"""The sheet of results shows the query, every image with its score, and says where there is none."""

import pytest
from PIL import Image

from hf_multimodal.inference.index import Hits
from hf_multimodal.inference.result_sheet import result_sheet


@pytest.fixture
def hits(tmp_path):
    payload = []
    for number in range(7):
        Image.new("RGB", (60, 40 + 10 * number), (30 * number, 90, 90)).save(tmp_path / f"{number}.png")
        payload.append({"image": str(tmp_path / f"{number}.png")})
    (tmp_path / "4.png").write_bytes(b"")
    payload[5] = {}
    return Hits([f"id {n}" for n in range(7)], [0.9 - 0.1 * n for n in range(7)], payload)


def test_every_hit_has_its_image_and_score(hits, tmp_path):
    figure = result_sheet("a $wet$ 好 dog", hits, tmp_path / "sheet.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["query"] + [
        f"{n + 1}   {0.9 - 0.1 * n:.3f}" for n in range(7)
    ]
    assert figure.axes[0].texts[0].get_text() == "a $wet$ 好 dog"
    assert [axes.get_xlabel() for axes in figure.axes[1:]] == hits.ids
    assert [len(axes.images) for axes in figure.axes] == [0, 1, 1, 1, 1, 0, 0, 1]
    assert figure.axes[5].texts[0].get_text() == "cannot be read" and figure.axes[6].texts[0].get_text() == "no image"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000


def test_a_image_asks_and_images_from_memory_are_shown(hits):
    figure = result_sheet(Image.new("L", (9, 9)), hits, images={"id 5": Image.new("RGB", (5, 5)), "id 4": None})
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 1, 1, 0, 1, 1]
    with pytest.raises(ValueError, match="there are no hits to draw"):
        result_sheet("dog", Hits([], [], []))
