"""Queries are compared by their results, on a database that no query can change, leave or block."""

import hashlib
import sqlite3
import time

import pytest

from ift.lab.scores import Answer, ScoreError, load_scores, target_scores
from ift.lab.scores import sql as module
from ift.lab.scores.sql import Database, is_ordered


@pytest.fixture
def file(tmp_path):
    """Three cities with their people; two have the same number."""
    file = tmp_path / "a city?.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE city (name TEXT, people REAL)")
        connection.executemany("INSERT INTO city VALUES (?, ?)", [("a", 0.1), ("b", 0.2), ("c", 0.2)])
        connection.execute("CREATE TABLE odd (value TEXT)")
        connection.execute("INSERT INTO odd VALUES (CAST(x'ff41' AS TEXT))")
    connection.close()
    return file


@pytest.mark.parametrize(
    ("query", "reference", "expected"),
    [
        ("SELECT name FROM city WHERE people > 0.15", "SELECT name FROM city WHERE name <> 'a'", 1),
        ("```sql\nSELECT name FROM city;\n```", "SELECT name FROM city", 1),
        ("SELECT name FROM city ORDER BY name DESC", "SELECT name FROM city", 1),  # no order asked for
        ("SELECT name FROM city ORDER BY name DESC", "SELECT name FROM city ORDER BY name", 0),
        ("SELECT name FROM city", "SELECT name FROM city ORDER BY name", 1),  # by luck in this order
        ("SELECT DISTINCT people FROM city", "SELECT people FROM city", 0),  # how often counts
        ("SELECT 0.3", "SELECT sum(people) FROM city WHERE name < 'c'", 1),  # 0.30000000000000004
        ("SELECT 3", "SELECT count(*) * 1.0 FROM city", 1),
        ("SELECT name, people FROM city", "SELECT people, name FROM city", 0),
        ("SELECT NULL", "SELECT max(people) FROM city WHERE 0", 1),
        ("SELECT value FROM odd", "SELECT value FROM odd", 1),  # no UTF-8
        ("SELECT nothing FROM city", "SELECT name FROM city", 0),
        ("", "SELECT name FROM city", 0),
        ("SELECT 1; SELECT 1", "SELECT 1", 0),
        ("SELECT '\x00'", "SELECT 1", 0),
        ("SELECT '\ud800'", "SELECT 1", 0),
        ("-- nothing", "SELECT 1", 0),
    ],
)
def test_queries_are_right_by_their_results(file, query, reference, expected):
    assert Database(file).right(query, reference) == expected


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("select a from t order  by b", True),
        ("SELECT a FROM t ORDER\n BY b LIMIT 1", True),
        ("SELECT a FROM (SELECT b FROM t ORDER BY b LIMIT 1)", False),
        ("SELECT a, rank() OVER (ORDER BY b) FROM t", False),
        ("SELECT 'ORDER BY' FROM t -- ORDER BY a", False),
        ("SELECT a /* ( */ FROM t ORDER BY a", True),
        ("SELECT ')' , a FROM t ORDER BY \"(\"", True),
        ("WITH x AS (SELECT 1 ORDER BY 1) SELECT * FROM x", False),
    ],
)
def test_the_order_counts_where_the_reference_asks_for_one(query, ordered):
    assert is_ordered(query) == ordered


FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO city VALUES ('d', 1)",
        "DELETE FROM city",
        "DROP TABLE city",
        "CREATE TEMP TABLE t (a)",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "SELECT * FROM pragma_table_info('city')",
        "ATTACH 'OTHER' AS other",
        "VACUUM INTO 'OTHER'",
        "BEGIN EXCLUSIVE",
        "SELECT load_extension('OTHER')",
        "WITH x AS (SELECT 1) DELETE FROM city RETURNING name",
    ],
)
def test_a_query_reads_and_does_nothing_else(file, tmp_path, query):
    before, other = hashlib.sha256(file.read_bytes()).digest(), tmp_path / "other.sqlite"
    database = Database(file)
    with pytest.raises(ValueError, match=r"not authorized|prohibited|denied|no such"):
        database.run(query.replace("OTHER", str(other)))
    assert hashlib.sha256(file.read_bytes()).digest() == before
    assert {one.name for one in tmp_path.iterdir()} == {file.name}
    assert database.right("SELECT count(*) FROM city", "SELECT 3") == 1  # the next query is as before


@pytest.mark.parametrize(
    "query",
    [
        FOREVER.format("count(*)"),
        FOREVER.format("i") + " WHERE i < 0",
        "SELECT count(*) FROM " + ", ".join(f"city c{n}" for n in range(40)),
        FOREVER.format("zeroblob(900000)") + " ORDER BY 1",
    ],
)
def test_a_query_without_an_end_is_stopped(file, monkeypatch, query):
    monkeypatch.setattr(module, "SECONDS", 0.3)
    database, began = Database(file), time.monotonic()
    assert database.right(query, "SELECT 1") == 0
    assert time.monotonic() - began < 5
    assert database.right("SELECT 1", "SELECT 1") == 1
    with pytest.raises(ScoreError, match=r"row 5: the reference .* fails: it takes more than 0.3 s"):
        database.check(Answer("5", "", "", FOREVER.format("count(*)")))


@pytest.mark.parametrize(
    "query", [FOREVER.format("i"), "SELECT zeroblob(1000000000)", "SELECT '" + "x" * 2_000_000 + "'"]
)
def test_a_result_has_a_size(file, query):
    with pytest.raises(ValueError, match=r"more than 100,000 rows|too big|too large"):
        Database(file).run(query)


def test_a_wrong_reference_is_refused_by_its_row(file):
    scores = load_scores(["sql"], str(file))
    rows = [Answer("1", "", "", "SELECT 1"), Answer("2", "", "", "SELECT noname FROM city")]
    with pytest.raises(
        ScoreError, match=r"sql: row 2: the reference 'SELECT noname FROM city' fails: no such column"
    ):
        target_scores(scores, rows)
    assert target_scores(scores, rows[:1]) == {"sql": 1}
    with pytest.raises(ScoreError, match=r"row 3: .* fails: not authorized"):
        target_scores(scores, [Answer("3", "", "", "DELETE FROM city")])


@pytest.mark.parametrize("content", [None, b"not a database at all, and long enough to be looked at" * 30])
def test_a_file_that_is_no_database_is_refused(tmp_path, content):
    file = tmp_path / "x.sqlite"
    if content:
        file.write_bytes(content)
    with pytest.raises(ScoreError, match=r"--score_db .*x.sqlite: .*; give an SQLite file"):
        load_scores(["sql"], str(file))
    assert file.exists() == bool(content)
