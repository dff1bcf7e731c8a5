"""Images to ask about, drawn by this code: nobody's rights, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

_SIZE: Final = (640, 400)
_INK, _PAPER, _BLUE, _ORANGE, _GREEN = "#1f2933", "#fffdf8", "#2563eb", "#c2410c", "#15803d"


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and a question about it."""

    title: str
    question: str
    draw: Callable[[ImageDraw.ImageDraw], None]


def _chart(draw: ImageDraw.ImageDraw) -> None:
    draw.line([(70, 40), (70, 340), (600, 340)], fill=_INK, width=3)
    for place, (name, value) in enumerate([("Mon", 12), ("Tue", 19), ("Wed", 7), ("Thu", 24), ("Fri", 15)]):
        left = 100 + place * 100
        draw.rectangle([left, 340 - value * 11, left + 60, 338], fill=_BLUE)
        draw.text((left + 30, 360), name, fill=_INK, font_size=22, anchor="mm")
        draw.text((left + 30, 325 - value * 11), str(value), fill=_INK, font_size=22, anchor="mm")
    draw.text((335, 24), "Cups of tea sold", fill=_INK, font_size=26, anchor="mm")


def _shapes(draw: ImageDraw.ImageDraw) -> None:
    for x, y, colour in [(90, 90, _BLUE), (250, 250, _ORANGE), (420, 110, _BLUE), (540, 280, _GREEN)]:
        draw.ellipse([x - 50, y - 50, x + 50, y + 50], fill=colour)
    draw.rectangle([180, 60, 290, 150], fill=_GREEN)
    draw.rectangle([60, 230, 150, 340], fill=_ORANGE)
    draw.polygon([(330, 340), (400, 210), (470, 340)], fill=_BLUE)


def _note(draw: ImageDraw.ImageDraw) -> None:
    lines = ["SHOPPING LIST", "", "3 lemons", "2 loaves of bread", "500 g of rice", "1 jar of honey"]
    draw.rectangle([120, 20, 520, 380], outline=_INK, width=2)
    for place, line in enumerate(lines):
        draw.text((160, 50 + place * 54), line, fill=_INK, font_size=34)


SAMPLES: Final = (
    Sample("Chart", "On which day was the most tea sold, and on which the least?", _chart),
    Sample("Shapes", "How many circles are there, and what are their colours?", _shapes),
    Sample("Note", "Read the list and write it as JSON with amounts and units.", _note),
)


def draw_samples(folder: Path) -> None:
    """Write all pictures into a folder."""
    for sample in SAMPLES:
        image = Image.new("RGB", _SIZE, _PAPER)
        sample.draw(ImageDraw.Draw(image))
        image.save(sample_file(sample, folder))


def sample_file(sample: Sample, folder: Path) -> Path:
    """The file of a picture in that folder."""
    return folder / f"{sample.title.lower()}.png"
