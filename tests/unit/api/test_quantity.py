"""Quantities as Kubernetes writes them, in bytes, and sizes as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.api.quantity import MAX_BYTES, human_readable, to_bytes

UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@pytest.mark.parametrize(
    ("quantity", "size"),
    [
        (0, 0),
        (512, 512),
        ("512", 512),
        ("512Mi", 512 * 2**20),
        ("1Gi", 2**30),
        ("1.5Gi", 3 * 2**29),
        ("0.5Ki", 512),
        ("200M", 200_000_000),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2E", 2 * 10**18),
        ("7Ei", 7 * 2**60),
        ("5000m", 5),
        ("+5", 5),
        (str(MAX_BYTES), MAX_BYTES),
    ],
)
def test_what_a_quantity_says(quantity: str | int, size: int) -> None:
    assert to_bytes(quantity) == size


@pytest.mark.parametrize(
    "quantity",
    [
        "",
        "Mi",
        "512mi",
        "512MB",
        "1.2.3",
        "0x10",
        "one",
        "-1",
        "-512Mi",
        "100m",
        "0.1",
        "8Ei",
        "10E",
        "1e400",
        "1e999999999",
        "inf",
        "-Infinity",
        "nan",
        MAX_BYTES + 1,
        -1,
    ],
)
def test_what_is_no_size_is_refused(quantity: str | int) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        to_bytes(quantity)


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)))
def test_a_number_with_a_unit_is_that_many_bytes(number: int, unit: str) -> None:
    assert to_bytes(f"{number}{unit}") == number * UNITS[unit]


@given(st.text(alphabet="0123456789.+-eEinfNaKMGTPEmuk_ ", max_size=12) | st.text(max_size=8))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        size = to_bytes(text)
    except ValueError:
        return
    assert 0 <= size <= MAX_BYTES


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (17, "17"),
        (1023, "1023"),
        (1024, "1Ki"),
        (512 * 2**20, "512Mi"),
        (2**30, "1.0Gi"),
        (3 * 2**30, "3.0Gi"),
        (3 * 2**29, "1.5Gi"),
        (64 * 2**40, "64.0Ti"),
        (MAX_BYTES, "8.0Ei"),
    ],
)
def test_what_people_read(size: int, text: str) -> None:
    assert human_readable(size) == text


@given(st.integers(0, 1000 * 2**40))
def test_what_people_read_is_a_quantity_next_to_the_size(size: int) -> None:
    text = human_readable(size)
    number = text.rstrip("KMGTi")
    unit = UNITS[text.removeprefix(number)]
    step = unit / 10 if "." in number else unit
    assert abs(float(number) * unit - size) <= step / 2
