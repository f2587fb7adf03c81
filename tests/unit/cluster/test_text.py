"""A file's name may hold any byte, and what goes to the API server is UTF-8."""

import json
import os
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.cluster.text import printable, printable_object

texts = st.text(st.characters())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda below: st.lists(below) | st.dictionaries(texts, below),
    max_leaves=20,
)


def test_a_byte_that_is_no_utf8_is_written_out() -> None:
    assert printable(os.fsdecode(b"/srv/b\xe9.qcow2")) == "/srv/b\\xe9.qcow2"


@given(st.binary())
def test_every_name_of_a_file_becomes_utf8(name: bytes) -> None:
    printable(os.fsdecode(name)).encode()


@given(st.text(st.characters(codec="utf-8")))
def test_what_is_utf8_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(values)
def test_every_object_becomes_utf8_wherever_the_name_stands(value: Any) -> None:
    json.dumps(printable_object(value), ensure_ascii=False).encode()
