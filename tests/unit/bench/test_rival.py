"""The rival extends as the classical design does."""

from pathlib import Path

from bench.rival import Volume, grown

_MEBIBYTE = 2**20


def volume(*, allocation: int, physical: int) -> Volume:
    return Volume(Path("/dev/loop0"), allocation * _MEBIBYTE, physical * _MEBIBYTE, capacity=100 * _MEBIBYTE)


def test_a_volume_is_due_when_less_than_the_watermark_is_free() -> None:
    assert volume(allocation=49, physical=64).is_due(16 * _MEBIBYTE)
    assert not volume(allocation=48, physical=64).is_due(16 * _MEBIBYTE)


def test_it_grows_by_one_chunk_and_never_past_a_tenth_more_than_its_disk() -> None:
    assert grown(volume(allocation=49, physical=64), 32 * _MEBIBYTE) == 96 * _MEBIBYTE
    assert grown(volume(allocation=99, physical=96), 32 * _MEBIBYTE) == 110 * _MEBIBYTE
