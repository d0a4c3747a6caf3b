"""A release runs beside the one before it on the same database: migrations expand, and contract only later.

Each migration's SQL goes through squawk, and through what squawk does not see. One that contracts on purpose says
why in a module variable `contracts`: which release no longer needs what it takes away.
"""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory

ROOT = Path(__file__).parents[2]
LOCATIONS = {
    "kernel": ROOT / "shared/delivery/migrations",
    **{path.parent.name: path for path in sorted((ROOT / "services").glob("*/migrations"))},
}
BEFORE_THE_RULE = {
    "kernel": {"0001", "0002", "0003"},
    "data": {"0001", "0002"},
    "evaluator": {"0001", "0002"},
    "monitor": {"0001", "0002"},
    "registry": {"0001", "0002"},
    "serving": {"0001", "0002"},
    "trainer": {"0001", "0002"},
}
_STYLE = (
    "prefer-text-field",
    "prefer-bigint-over-int",
    "prefer-identity",
    "prefer-robust-stmts",
    "require-lock-timeout",
    "require-statement-timeout",
)
"""Opinions about types and scripts; the rest of squawk's rules is about what a running release would notice."""
_DEFAULT_DROPPED = re.compile(r"ALTER\s+COLUMN\s+\S+\s+DROP\s+DEFAULT", re.IGNORECASE)


def _scripts(location: Path) -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(location))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def migrations() -> Iterator[tuple[str, Script]]:
    for name, location in LOCATIONS.items():
        for script in _scripts(location).walk_revisions():
            if script.revision not in BEFORE_THE_RULE.get(name, ()):
                yield name, script


def sql_of(location: Path, script: Script) -> str:
    """The statements of one migration, as `alembic upgrade --sql` prints them."""
    scripts, printed = _scripts(location), io.StringIO()
    before = script.down_revision or "base"

    def steps(_revision: Any, _context: Any) -> Any:
        return scripts._upgrade_revs(script.revision, str(before))

    with EnvironmentContext(
        Config(), scripts, fn=steps, as_sql=True, starting_rev=str(before)
    ) as environment:
        environment.configure(dialect_name="postgresql", as_sql=True, output_buffer=printed)
        with environment.begin_transaction():
            environment.run_migrations()
    return printed.getvalue()


def problems(sql: str) -> list[str]:
    """What a release that still runs would notice."""
    command = [
        str(Path(sys.executable).with_name("squawk")),
        "--reporter=json",
        "--pg-version=18",
        "--stdin-filepath=m.sql",
    ]
    command += [f"--exclude={','.join(_STYLE)}"]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, check=False)
    found = [f"{one['rule_name']}: {one['message']}" for one in json.loads(done.stdout or "[]")]
    if _DEFAULT_DROPPED.search(sql):
        found.append("default-dropped: whoever does not know the column can no longer insert a row")
    return found


@pytest.mark.parametrize(
    ("name", "script"), [pytest.param(n, s, id=f"{n}-{s.revision}") for n, s in migrations()]
)
def test_a_migration_expands_or_says_why_it_contracts(name: str, script: Script) -> None:
    why = getattr(script.module, "contracts", "")
    assert why or not problems(sql_of(LOCATIONS[name], script))


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE run ADD COLUMN team text NOT NULL;",
        "ALTER TABLE run ADD COLUMN team text NOT NULL DEFAULT ''; ALTER TABLE run ALTER COLUMN team DROP DEFAULT;",
        "ALTER TABLE run DROP COLUMN state;",
        "ALTER TABLE run RENAME COLUMN state TO status;",
        "ALTER TABLE run RENAME TO runs;",
        "ALTER TABLE run ALTER COLUMN step TYPE text;",
        "ALTER TABLE run ALTER COLUMN note SET NOT NULL;",
        "ALTER TABLE run ADD CONSTRAINT positive CHECK (step > 0);",
        "CREATE INDEX run_state ON run (state);",
        "DROP TABLE run;",
    ],
)
def test_the_lint_sees_what_breaks_a_running_release(sql: str) -> None:
    assert problems(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE run ADD COLUMN team text;",
        "ALTER TABLE run ADD COLUMN team text NOT NULL DEFAULT '';",
        "CREATE TABLE team (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);",
        "CREATE INDEX CONCURRENTLY run_state ON run (state);",
    ],
)
def test_the_lint_lets_expansions_pass(sql: str) -> None:
    assert not problems(sql)
