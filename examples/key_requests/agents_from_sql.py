#!/usr/bin/env python3
"""Answer a key request from a table `agents (id, name, ip, key)` in SQLite, PostgreSQL, MySQL or MariaDB.

Usage: agents_from_sql.py DATABASE id|ip VALUE

DATABASE is the path of a SQLite file, a `postgresql://` URL or a `mysql://` URL. Give a password by `?passfile=/path`,
for MySQL by `?read_default_file=/path`, never in the URL.
Prints `{"error": 0, "data": {…}}`, or `{"error": N, "message": "…"}` with one of the codes below.
"""

import asyncio
import importlib.util
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

BAD_ARGUMENTS = 1
NO_DRIVER = 2
NO_DATABASE = 3
NO_AGENT = 4
SEVERAL_AGENTS = 5

STATEMENTS = {
    "id": "SELECT agents.id, agents.name, agents.ip, agents.key FROM agents WHERE agents.id = {} LIMIT 2",
    "ip": "SELECT agents.id, agents.name, agents.ip, agents.key FROM agents WHERE agents.ip = {} LIMIT 2",
}
"""The value is always bound: the braces stand for the driver's own placeholder."""

POSTGRES = ("postgresql://", "postgres://")
MYSQL = ("mysql://", "mariadb://")


class Refused(Exception):
    """The request gets this code and message instead of an agent."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def answer(database: str, kind: str, value: str) -> dict[str, Any]:
    """Return the answer to one request; a refusal is an answer too."""
    try:
        return {"error": 0, "data": find_agent(database, kind, value)}
    except Refused as refused:
        return {"error": refused.code, "message": refused.message}


def find_agent(database: str, kind: str, value: str) -> dict[str, str]:
    """Return the only agent with this id or address; raises `Refused`."""
    if kind not in STATEMENTS or not value:
        raise Refused(BAD_ARGUMENTS, "expected id or ip, and a value")
    rows = _query_of(database)(database, STATEMENTS[kind], value)
    if not rows:
        raise Refused(NO_AGENT, f"there is no agent of this {kind}")
    if len(rows) > 1:
        raise Refused(SEVERAL_AGENTS, f"there are several agents of this {kind}")
    return dict(zip(("id", "name", "ip", "key"), rows[0], strict=True))


def _query_of(database: str) -> Callable[[str, str, str], list[tuple[str, ...]]]:
    if database.startswith(POSTGRES):
        return _query_postgres
    return _query_mysql if database.startswith(MYSQL) else _query_sqlite


def _query_sqlite(path: str, statement: str, value: str) -> list[tuple[str, ...]]:
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
            return connection.execute(statement.format("?"), (value,)).fetchall()
    except sqlite3.Error as error:
        raise Refused(NO_DATABASE, f"the database cannot be read: {type(error).__name__}") from None


def _query_postgres(url: str, statement: str, value: str) -> list[tuple[str, ...]]:
    if importlib.util.find_spec("asyncpg"):
        return asyncio.run(_query_asyncpg(url, statement, value))
    if importlib.util.find_spec("psycopg"):
        return _query_psycopg(url, statement, value)
    raise Refused(NO_DRIVER, "neither asyncpg nor psycopg is installed")


async def _query_asyncpg(url: str, statement: str, value: str) -> list[tuple[str, ...]]:
    import asyncpg  # noqa: PLC0415 - only PostgreSQL needs a driver

    try:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return [tuple(row) for row in await connection.fetch(statement.format("$1"), value)]
        finally:
            await connection.close(timeout=1)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Refused(NO_DATABASE, f"the database cannot be read: {type(error).__name__}") from None


def _query_psycopg(url: str, statement: str, value: str) -> list[tuple[str, ...]]:
    import psycopg  # noqa: PLC0415 - only PostgreSQL needs a driver

    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            return connection.execute(statement.format("%s"), (value,)).fetchall()
    except psycopg.Error as error:
        raise Refused(NO_DATABASE, f"the database cannot be read: {type(error).__name__}") from None


def _query_mysql(url: str, statement: str, value: str) -> list[tuple[str, ...]]:
    if not importlib.util.find_spec("pymysql"):
        raise Refused(NO_DRIVER, "pymysql is not installed")
    import pymysql  # noqa: PLC0415 - only MySQL needs it

    parts = urlsplit(url)
    options = {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "database": parts.path.removeprefix("/"),
        **dict(parse_qsl(parts.query)),
    }
    set_options = {name: option for name, option in options.items() if option}
    try:
        with closing(pymysql.connect(**set_options, connect_timeout=5)) as connection, connection.cursor() as cursor:
            cursor.execute(statement.format("%s"), (value,))
            return list(cursor.fetchall())
    except pymysql.Error as error:
        raise Refused(NO_DATABASE, f"the database cannot be read: {type(error).__name__}") from None


def main() -> None:
    """Print the answer; a refusal is an answer too, so the exit code is 0."""
    try:
        database, kind, value = sys.argv[1:]
    except ValueError:
        print(json.dumps({"error": BAD_ARGUMENTS, "message": "expected DATABASE id|ip VALUE"}))
        return
    print(json.dumps(answer(database, kind, value)))


if __name__ == "__main__":
    main()
