"""How tests are divided among workers."""

from hypothesis import given
from hypothesis import strategies as st

from tests.workers import longest_first, next_unit, unit_of

FOLDERS = ("tests/integration/api", "tests/integration/migrations", "tests/integration/faults", "tests/unit/agent/node")
UNITS = st.lists(
    st.builds("{}/test_{}.py".format, st.sampled_from(FOLDERS), st.integers(0, 5)), unique=True, min_size=1, max_size=20
)


def test_a_file_is_one_unit_and_so_are_all_tests_of_a_whole_cluster() -> None:
    assert unit_of("tests/integration/api/test_x.py::test_y[1::2]") == "tests/integration/api/test_x.py"
    assert unit_of("tests/e2e/test_x.py::test_y") == unit_of("tests/e2e/test_z.py::test_y") == "tests/e2e"


def test_each_cell_of_the_matrix_is_a_unit() -> None:
    cell = "tests/integration/faults/test_matrix.py::test_matrix[agent-killed]"
    assert unit_of(cell) == cell


def test_a_worker_stays_in_its_folder() -> None:
    waiting = ["tests/integration/api/test_a.py", "tests/integration/faults/test_matrix.py::test_matrix[x]"]
    assert next_unit(waiting, "tests/integration/faults/test_put_back.py", []) == waiting[1]


def test_it_begins_the_longest_folder_that_nobody_has_begun() -> None:
    waiting = [
        "tests/unit/api/test_a.py",
        "tests/integration/migrations/test_a.py",
        "tests/integration/faults/test_a.py",
    ]
    assert next_unit(waiting, None, []) == waiting[1]
    assert next_unit(waiting, None, [waiting[1]]) == waiting[2]
    assert next_unit(waiting, None, waiting[1:]) == waiting[0]


def test_long_files_are_begun_first_and_then_those_with_most_tests() -> None:
    folder = "tests/integration/migrations"
    short, many, slow = f"{folder}/test_a.py", f"{folder}/test_b.py", f"{folder}/test_hangs.py"
    assert longest_first({short: "1", many: "123", slow: "12"}) == [slow, many, short]


def test_it_helps_where_most_waits() -> None:
    waiting = ["tests/unit/api/test_a.py", "tests/integration/faults/test_a.py", "tests/integration/faults/test_b.py"]
    assert next_unit(waiting, None, waiting[:2]) == waiting[1]


@given(units=UNITS, workers=st.integers(1, 4), data=st.data())
def test_each_unit_is_given_once_and_none_waits_for_ever(units: list[str], workers: int, data: st.DataObject) -> None:
    waiting, given_out = list(units), []
    last: dict[int, str | None] = dict.fromkeys(range(workers))
    while waiting:
        worker = data.draw(st.sampled_from(range(workers)))
        others = [unit for other, unit in last.items() if other != worker and unit is not None]
        chosen = next_unit(waiting, last[worker], others)
        waiting.remove(chosen)
        last[worker] = chosen
        given_out.append(chosen)
    assert sorted(given_out) == sorted(units)
