"""The counter-based generator against its documentation in inference.proto."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.engine.uniform import mix, stream, uniform, uniforms

SEEDS = st.integers(-(2**63), 2**63 - 1)
COUNTS = st.integers(0, 2**32 - 1)


def documented(seed: int, choice: int, position: int) -> float:
    """Word by word: u = (mix(mix(mix(seed) xor choice) xor position) >> 11) * 2^-53."""

    def mix(x: int) -> int:
        z = (x + 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    return (mix(mix(mix(seed % 2**64) ^ choice) ^ position) >> 11) * 2.0**-53


@given(seed=SEEDS, choice=COUNTS, position=COUNTS)
def test_one_number_is_the_documented_one(seed: int, choice: int, position: int) -> None:
    assert uniform(stream(seed, choice), position) == documented(seed, choice, position)


@given(rows=st.lists(st.tuples(SEEDS, COUNTS, COUNTS), min_size=1, max_size=20))
def test_many_numbers_are_the_same_ones(rows: list[tuple[int, int, int]]) -> None:
    states = np.array([stream(seed, choice) for seed, choice, _ in rows], np.uint64)
    positions = np.array([position for _, _, position in rows], np.uint64)
    assert uniforms(states, positions).tolist() == [documented(*row) for row in rows]


def test_the_mixer_is_splitmix64() -> None:
    """The first two outputs of the published generator from the state 0."""
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@pytest.mark.parametrize(
    ("seed", "choice", "position", "number"),
    [(0, 0, 0, 0.13870941014555427), (1, 0, 0, 0.6935121390102292), (-1, 3, 1000, 0.9234643141878413)],
)
def test_known_numbers(seed: int, choice: int, position: int, number: float) -> None:
    """Numbers that other implementations can be checked against; a change would break every resumed request."""
    assert uniform(stream(seed, choice), position) == number


@pytest.mark.parametrize("along", ["seed", "choice", "position"])
def test_numbers_are_uniform_and_unrelated_along_each_coordinate(along: str) -> None:
    """Chi-square over 100 cells, 99 degrees of freedom: 1 in 10,000 above 161."""
    count = 50_000
    rows = [(n, 0, 0) if along == "seed" else (7, n, 0) if along == "choice" else (7, 0, n) for n in range(count)]
    states = np.array([stream(seed, choice) for seed, choice, _ in rows], np.uint64)
    numbers = uniforms(states, np.array([position for *_, position in rows], np.uint64))
    cells = np.bincount((numbers * 100).astype(np.int64), minlength=100)
    assert float(((cells - count / 100) ** 2 / (count / 100)).sum()) < 161
    assert abs(float(np.corrcoef(numbers[1:], numbers[:-1])[0, 1])) < 0.02
    assert float(numbers.min()) >= 0.0
    assert float(numbers.max()) < 1.0
