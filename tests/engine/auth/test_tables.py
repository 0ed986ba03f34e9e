"""Every authorisation rule of every room version, by its tables."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bridge.engine.auth
from bridge.engine.auth.power_levels import NAMED_LEVELS
from bridge.engine.versions import VERSIONS
from tests.engine.auth import create, general, membership, power_levels
from tests.engine.auth.cases import Table, expected

TABLES = (*create.TABLES, *general.TABLES, *membership.TABLES, *power_levels.TABLES)

by_table = pytest.mark.parametrize(
    "table", TABLES, ids=[f"{table.rule} ({table.spec.partition(',')[0]})" for table in TABLES]
)


@by_table
@pytest.mark.parametrize("version_id", VERSIONS)
def test_the_rows_of_the_table(version_id: str, table: Table) -> None:
    rows = {row.name: (row, expected(row.expect, version_id)) for row in table.rows}
    assert len(rows) == len(table.rows), "two rows of one name"
    wanted = {name: word for name, (_, word) in rows.items() if word is not None}
    assert {name: rows[name][0].verdict(version_id) for name in wanted} == wanted


@by_table
@pytest.mark.parametrize("version_id", VERSIONS)
def test_a_rule_has_an_allowed_and_a_refused_row_where_it_exists(
    version_id: str, table: Table
) -> None:
    words = {expected(row.expect, version_id) for row in table.rows}
    assert (table.rule in words) is table.is_in(version_id)
    assert "" in words or not table.is_in(version_id)


def test_every_word_of_a_refusal_has_a_table_and_no_table_is_of_the_past() -> None:
    in_force = {t.rule for t in TABLES if any(t.is_in(version_id) for version_id in VERSIONS)}
    assert in_force == words_of_the_engine()


def words_of_the_engine() -> set[str]:
    """The first arguments of `refuse`, and what is given to functions that pass their `rule` on."""
    words: set[str] = set()
    for path in Path(str(bridge.engine.auth.__file__)).parent.glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        passing = {
            node.name: [argument.arg for argument in node.args.args].index("rule")
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            and "rule" in [argument.arg for argument in node.args.args]
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            place = 0 if node.func.id == "refuse" else passing.get(node.func.id)
            if place is not None:
                words |= _words(node.args[place])
    return words


def _words(argument: ast.expr) -> set[str]:
    match argument:
        case ast.Constant(value=str(word)):
            return {word}
        case ast.JoinedStr(values=[ast.Constant(value="power_levels."), _]):
            return {f"power_levels.{name}" for name in (*NAMED_LEVELS, "events", "notifications")}
        case ast.Name():  # a function that passes it on, or a name out of the line above
            return set()
    raise AssertionError(f"a refusal whose word cannot be read: {ast.unparse(argument)}")
