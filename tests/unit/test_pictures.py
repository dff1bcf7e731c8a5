"""Pictures: what is decoded and how, and how a prompt with pictures is cut into steps and positions."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.engine.base import Image, Sampling
from mesh.engine.transformers.scheduling.blocks import BlockManager
from mesh.engine.transformers.scheduling.scheduler import Limits, Scheduler
from mesh.engine.transformers.scheduling.sequence import Row, Work
from mesh.engine.transformers.vision.pictures import Pictures, decode, positions


def _file(format: str, size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size).save(file, format, **options)
    return file.getvalue()


def _prompt(layout: str, *, mutual: bool = True) -> Pictures:
    """One token per letter, `.` for text, others for pictures, neighbours of the same letter for the same one."""
    runs = np.full(len(layout), -1)
    number = -1
    for place, letter in enumerate(layout):
        if letter != ".":
            number += not place or layout[place - 1] != letter
            runs[place] = number
    return Pictures({}, np.flatnonzero(runs >= 0), runs, list(range(len(layout))), mutual)


class TestPieces:
    def test_a_picture_is_not_cut(self) -> None:
        picture = _prompt("..aaaa..bb")
        assert picture.piece(0, 2, at_least_one=True) == 2
        assert picture.piece(0, 4, at_least_one=True) == 2
        assert picture.piece(0, 6, at_least_one=True) == 6
        assert picture.piece(0, 9, at_least_one=True) == 8
        assert picture.piece(0, 99, at_least_one=True) == 99

    def test_one_that_is_larger_than_the_step_goes_whole_or_waits(self) -> None:
        picture = _prompt("..aaaa..bb")
        assert picture.piece(2, 3, at_least_one=True) == 4
        assert picture.piece(2, 3, at_least_one=False) == 0
        assert picture.piece(4, 1, at_least_one=False) == 0  # its first half is in the prefix cache
        assert picture.piece(4, 1, at_least_one=True) == 2

    def test_neighbouring_pictures_may_be_parted(self) -> None:
        assert _prompt("aabb").piece(0, 2, at_least_one=True) == 2

    def test_pictures_whose_tokens_do_not_see_each_other_are_cut_anywhere(self) -> None:
        assert _prompt("..aaaa", mutual=False).piece(0, 3, at_least_one=True) == 3

    @given(st.lists(st.text(".ab", min_size=1, max_size=30), min_size=1, max_size=4), st.integers(4, 12))
    def test_the_scheduler_cuts_no_picture(self, layouts: list[str], step_tokens: int) -> None:
        scheduler = Scheduler(Limits(4, step_tokens), BlockManager(65, 4))
        for number, layout in enumerate(layouts):
            work = Work(number, number, Sampling(seed=0), list(range(len(layout))))
            work.pictures = _prompt(layout) if layout.strip(".") else None
            work.rows = [Row(work, 0, work.prompt[:], 1000, 0, frozenset())]
            scheduler.add(work)
        ends: list[tuple[Row, int]] = []
        for _ in range(200):
            batch = scheduler.schedule()
            for chunk in batch.prefill:
                chunk.row.computed += chunk.count
                ends.append((chunk.row, chunk.row.computed))
            for row in batch.decode:
                row.computed += 1
            for row in batch.sampled:
                scheduler.finish(row)
            if scheduler.idle:
                break
        assert scheduler.idle
        for row, end in ends:
            pictures = row.work.pictures
            if pictures is not None and end < len(pictures.runs):
                before, after = pictures.runs[end - 1 : end + 1]
                assert after < 0 or before != after


class TestPositions:
    PICTURE = replace(_prompt(".aa."), positions=np.array([[0, 1, 1, 2], [0, 1, 2, 3], [0, 1, 1, 3]]), shift=-1)

    def test_without_a_picture_they_count(self) -> None:
        assert positions(None, 3, 6).tolist() == [3, 4, 5]
        assert positions(_prompt(".aa."), 1, 3).tolist() == [1, 2]

    def test_of_a_prompt_and_of_what_follows(self) -> None:
        assert positions(self.PICTURE, 1, 3).tolist() == [[1, 1], [1, 2], [1, 1]]
        assert positions(self.PICTURE, 3, 6).tolist() == [[2, 3, 4], [3, 3, 4], [3, 3, 4]]
        assert positions(self.PICTURE, 4, 6).tolist() == [3, 4]

    def test_pieces_join(self) -> None:
        whole = positions(self.PICTURE, 0, 7)
        for cut in range(1, 4):
            parts = [positions(self.PICTURE, first, last) for first, last in pairwise((0, cut, 7))]
            assert np.concatenate(parts, axis=1).tolist() == whole.tolist()


class TestDecode:
    def test_turned_as_the_camera_noted(self) -> None:
        picture = PIL.Image.new("RGB", (30, 20))
        picture.putpixel((0, 0), (255, 0, 0))
        exif = PIL.Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        file = io.BytesIO()
        picture.save(file, "PNG", exif=exif)
        found = decode(Image(file.getvalue(), "image/png"))
        assert found.size == (20, 30)
        assert found.getpixel((19, 0)) == (255, 0, 0)

    @pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "1", "I;16"])
    def test_every_mode_becomes_rgb(self, mode: str) -> None:
        file = io.BytesIO()
        PIL.Image.new(mode, (6, 5)).save(file, "JPEG" if mode == "CMYK" else "PNG")
        found = decode(Image(file.getvalue(), ""))
        assert (found.mode, found.size) == ("RGB", (6, 5))

    def test_white_shows_through(self) -> None:
        file = io.BytesIO()
        PIL.Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(file, "PNG")
        assert decode(Image(file.getvalue(), "image/png")).getpixel((0, 0)) == (255, 255, 255)

    def test_low_detail_is_small(self) -> None:
        image = Image(_file("PNG", (2000, 1000)), "image/png")
        assert decode(image).size == (2000, 1000)
        assert decode(replace(image, detail="low")).size == (512, 256)

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
    def test_formats(self, format: str) -> None:
        assert decode(Image(_file(format), f"image/{format.lower()}")).size == (8, 8)
