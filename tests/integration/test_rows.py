"""What goes in as the rows of a statement comes out of it, whatever is in them, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from worker.store.database import Database
from worker.store.rows import Rows

_ROWS = Rows(text=sa.Text, whole=sa.BigInteger, real=sa.Float, yes=sa.Boolean)
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
_HOSTILE = st.text("\"\\,{} \n\tNULLnull'$%:é\U0001f600", max_size=12)
_RECORD = st.tuples(
    st.none() | _TEXT | _HOSTILE,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.booleans(),
)


def _through(database: Database, records: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    with database.read() as conn:
        dialect = conn.dialect.name
        found = conn.execute(sa.select(_ROWS.table(dialect)), _ROWS.params(dialect, records))
        return [tuple(row) for row in found]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_RECORD, max_size=8))
@example([('",', 0, 0.0, False), ('","', 1, 1e300, True), ("", None, None, None)])
@example([("\\", 1, 0.1, True), (None, 2, -0.5, False), ("NULL", 3, 1e-7, None), ("{}", 4, 5.0, None)])
@example([(None, None, None, None), (None, None, None, None)])
def test_rows_come_out_as_they_went_in(database: Database, records: list[tuple[Any, ...]]) -> None:
    found = _through(database, records)

    assert len(found) == len(records)
    for row, record in zip(found, records, strict=True):
        assert row == record


@pytest.mark.postgres
def test_a_nul_is_refused_and_moves_no_value_to_another_row(postgres_url: str) -> None:
    database = Database(postgres_url)
    try:
        for records in ([("a\x00b", 1, 1.0, True), ("c", 2, 2.0, True)], [("\x00", None, None, None)]):
            with pytest.raises(ValueError, match="NUL"):
                _through(database, records)
    finally:
        database.close()
