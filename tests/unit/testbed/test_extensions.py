"""The extensions that an agent's log tells of."""

import json

from testbed.demo.extensions import Extended, read_extensions


def line(volume: str, before: int, after: int, message: str = "extended a thin volume") -> str:
    fields = {"volume": volume, "storageDomainName": "loops", "fromBytes": before, "toBytes": after}
    return json.dumps({"level": "INFO", "message": message, **fields})


def test_each_volume_is_counted_from_its_first_size_to_its_last() -> None:
    lines = [line("b", 5, 10), line("a", 10, 20), line("b", 10, 30), line("a", 20, 40), line("a", 40, 80)]
    assert read_extensions(lines) == (Extended("b", "loops", 2, 5, 30), Extended("a", "loops", 3, 10, 80))


def test_all_else_is_left_out() -> None:
    assert read_extensions([line("a", 1, 2, "entered a phase"), "no JSON", "17", "", '{"half": ']) == ()
