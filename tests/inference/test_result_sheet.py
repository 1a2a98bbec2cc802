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
    files = [f"{n}.png\nid {n}" if n != 5 else "id 5" for n in range(7)]  # the sixth has no file
    assert [axes.get_xlabel() for axes in figure.axes] == ["", *files]
    assert [len(axes.images) for axes in figure.axes] == [0, 1, 1, 1, 1, 0, 0, 1]
    assert figure.axes[5].texts[0].get_text() == "cannot be read" and figure.axes[6].texts[0].get_text() == "no image"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000


def test_a_image_asks_and_images_from_memory_are_shown(hits):
    figure = result_sheet(Image.new("L", (9, 9)), hits, images={"id 5": Image.new("RGB", (5, 5)), "id 4": None})
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 1, 1, 0, 1, 1]
    with pytest.raises(ValueError, match="there are no hits to draw"):
        result_sheet("dog", Hits([], [], []))


def test_a_file_named_by_its_id_is_named_once(hits, tmp_path):
    for name in ("2", "2.png", str(tmp_path / "2.png")):
        figure = result_sheet(tmp_path / "3.png", Hits([name], [0.5], [hits.payload[2]]))
        assert [axes.get_xlabel() for axes in figure.axes] == ["3.png", "2.png"]


@pytest.mark.parametrize(
    ("count", "rows"),
    [(1, [2]), (3, [4]), (4, [5]), (5, [3, 3]), (6, [4, 3]), (7, [4, 4]), (10, [4, 4, 3]), (13, [5, 5, 4])],
)
def test_rows_are_full_or_the_last_is_centred(count, rows):
    figure = result_sheet("dog", Hits([str(n) for n in range(count)], [0.5] * count, [{}] * count))
    figure.draw_without_rendering()
    places = [axes.get_position() for axes in figure.axes]
    tops = sorted({round(place.y0, 3) for place in places}, reverse=True)
    assert [sum(round(place.y0, 3) == top for place in places) for top in tops] == rows
    for top in tops:
        row = [place for place in places if round(place.y0, 3) == top]
        assert row[0].x0 + row[-1].x1 == pytest.approx(1, abs=0.02)


def test_an_image_lies_in_the_middle_of_a_square(hits):
    axes = result_sheet("dog", Hits(["0"], [0.5], [hits.payload[0]])).axes[1]  # 60 by 40 pixels
    assert axes.get_xlim() == (-0.5, 59.5) and axes.get_ylim() == (49.5, -10.5)
