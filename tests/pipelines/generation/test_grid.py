"""Sheets of pictures."""

from PIL import Image


def test_long_labels_stay_in_their_column():
    from guiders.pipelines.generation.grid import _wrap
    from PIL import ImageFont

    font = ImageFont.load_default(15)
    text = "cfg(3)+cfg(4, reference=perturbedattention([mid_block;up_blocks.0])) and a word"
    lines = _wrap(text, font, 100)
    assert all(font.getlength(line) <= 100 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_head_a_little_wider_than_its_picture_is_one_line():
    from guiders.pipelines.generation.grid import layout

    def height(head):
        return layout([[Image.new("RGB", (32, 32))]], [["x"]], [head], ["row"]).height

    assert height("apg+adaptive(0.99)") == height("cfg") < height("apg+adaptive(0.99)+interval")
