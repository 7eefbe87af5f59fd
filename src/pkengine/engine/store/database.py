"""The database behind a pool of threads: nothing here blocks the reactor."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from pkengine.engine.store.migrate import migrate
from pkengine.errors import StoreError

P = ParamSpec("P")
T = TypeVar("T")

#: How long a statement waits for a lock that another process holds on an SQLite file.
_BUSY_TIMEOUT_MS = 10_000
_THREADS = 4
#: How many writes that wait are written together.
_GROUP = 64
#: How often a write is tried that meets others.
_ATTEMPTS = 50
_DIALECTS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
#: A server that does not answer must not keep the engine from saying so.
_CONNECT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "sqlite+pysqlite": {},
    "postgresql+psycopg": {"connect_timeout": 10},
}


class Threads(Protocol):
    """What is needed of Twisted's `ThreadPool`."""

    def callInThreadWithCallback(  # noqa: D102 - Twisted's
        self, onResult: Callable[[bool, object], object] | None, func: Callable[..., object], /
    ) -> None: ...

    def start(self) -> None: ...  # noqa: D102 - Twisted's

    def stop(self) -> None: ...  # noqa: D102 - Twisted's


class Store:
    """The engine's database; `open` makes one.

    Args:
        reactor: where results arrive.
        database: as `open_database` gives it.
        threads: run the queries.

    A query is a plain function whose first argument is a connection.  `read` and `write`
    run it in a thread, in one transaction, which is taken back when the function raises.  A
    function that writes may be run more than once, each time from the start.
    """

    def __init__(
        self, reactor: IReactorFromThreads, database: Engine, threads: Threads | None = None
    ) -> None:
        self._reactor = reactor
        self._database = database
        self._threads = threads or _thread_pool()
        # SQLite has one writer at a time.  Waiting for the turn here, and not in the
        # database, leaves the threads to those who read; and those who have waited are
        # written together, for what takes long is to get them onto the disk.
        is_sqlite = database.dialect.name == "sqlite"
        self._free_writers = 1 if is_sqlite else _THREADS
        self._group_size = _GROUP if is_sqlite else 1
        self._writes: deque[_Write] = deque()
        self._pending: set[Deferred[object]] = set()
        self._is_closed = False
        self._threads.start()

    @classmethod
    async def open(
        cls, reactor: IReactorFromThreads, url: str, *, threads: Threads | None = None
    ) -> Store:
        """Make a store of the database at `url`; see `open_database`."""
        store = cls(reactor, _connect(url), threads)
        try:
            await store.write(migrate)
        except BaseException:
            await store.close()
            raise
        return store

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query that changes nothing.

        Raises:
            StoreError: the database fails.
        """
        return await self._in_thread(
            lambda: transaction(self._database, False, query, *args, **kwargs)
        )

    async def write(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query that may change things; what it did is on disk when this returns.

        Raises:
            StoreError: the database fails.
            sqlalchemy.exc.IntegrityError: a constraint forbids the change.
        """
        write = _Write(lambda connection: query(connection, *args, **kwargs))
        write.done = Deferred(lambda _: self._forget(write))
        self._writes.append(write)
        self._write_some()
        result: T = await write.done
        return result

    def _forget(self, write: _Write) -> None:
        """Drop a write that nobody waits for, where it has not begun."""
        with contextlib.suppress(ValueError):
            self._writes.remove(write)

    def _write_some(self) -> None:
        while self._writes and self._free_writers:
            size = min(self._group_size, len(self._writes))
            self._free_writers -= 1
            self._begin([self._writes.popleft() for _ in range(size)])

    def _begin(self, group: list[_Write]) -> None:
        queries = [write.query for write in group]

        def end(outcomes: list[_Outcome] | Failure) -> None:
            self._free_writers += 1
            for number, write in enumerate(group):
                outcome = outcomes if isinstance(outcomes, Failure) else outcomes[number]
                if not write.done.called:  # else its caller gave up while it went on
                    write.done.callback(outcome)
            self._write_some()

        running = maybeDeferred(self._in_thread, lambda: _run_group(self._database, queries))
        running.addBoth(end)

    async def close(self) -> None:
        """Let what is under way finish, then close every connection; may be repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        while self._pending:
            await DeferredList(list(self._pending), consumeErrors=True)
        self._threads.stop()
        self._database.dispose()

    def _in_thread(self, function: Callable[[], T]) -> Deferred[T]:
        if self._is_closed:
            raise StoreError("The database is closed: the engine is stopping.")
        result: Deferred[T] = deferToThreadPool(self._reactor, self._threads, function)  # type: ignore[arg-type]
        # A query cannot be stopped: when a caller gives up, `close` waits in `stop` for it.
        done: Deferred[object] = Deferred()
        self._pending.add(done)

        def finish(outcome: T) -> T:
            self._pending.discard(done)
            done.callback(None)
            return outcome

        result.addBoth(finish)
        return result


_Query = Callable[[Connection], Any]
_Outcome = Any


class _Write:
    """A query that waits for its turn to write."""

    done: Deferred[Any]

    def __init__(self, query: _Query) -> None:
        self.query = query


def _run_group(database: Engine, queries: Sequence[_Query]) -> list[_Outcome]:
    """Write together what does not depend on each other; give each result, or its Failure.

    Raises:
        StoreError: nothing of it is written.
    """
    if len(queries) == 1:
        return [transaction(database, True, queries[0])]
    return transaction(database, True, lambda connection: [_part(connection, q) for q in queries])


def _part(connection: Connection, query: _Query) -> _Outcome:
    """Run one of several queries; where it raises, what it did is taken back and nothing else."""
    try:
        with connection.begin_nested():
            return query(connection)
    except IntegrityError:
        return Failure()
    except SQLAlchemyError as error:
        return Failure(_store_error(connection.engine, error))
    except Exception:
        return Failure()


def open_database(url: str) -> Engine:
    """Connect, and bring the tables up to date.  This blocks.

    Args:
        url: SQLAlchemy's, such as ``sqlite:////var/lib/pkengine/engine.db`` or
            ``postgresql://user:password@host/name``.

    Raises:
        StoreError: the URL is malformed, the database cannot be reached, or a newer
            pkengine made it.  Nothing was changed then.
    """
    database = _connect(url)
    try:
        transaction(database, True, migrate)
    except BaseException:
        database.dispose()
        raise
    return database


def transaction(
    database: Engine,
    is_write: bool,
    query: Callable[Concatenate[Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a query in this thread, in one transaction.

    A write is as if it were alone.  SQLite lets one in at a time; PostgreSQL ends one that met
    another, and then it is run again from the start.

    Raises:
        StoreError: the database fails.
        sqlalchemy.exc.IntegrityError: a constraint forbids the change.
    """
    options: dict[str, Any] = {"is_write": is_write}
    if is_write and database.dialect.name == "postgresql":
        options["isolation_level"] = "SERIALIZABLE"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with (
                database.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                return query(connection, *args, **kwargs)
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            if attempt < _ATTEMPTS and _met_another(error):
                continue
            raise _store_error(database, error) from error
    raise AssertionError("The last attempt returns or raises.")


def _store_error(database: Engine, error: SQLAlchemyError) -> StoreError:
    return StoreError(f"The database {_name(database.url)} cannot be used: {_reason(error)}.")


def _met_another(error: SQLAlchemyError) -> bool:
    """Tell whether PostgreSQL ended a transaction for the sake of another one."""
    original = error.orig if isinstance(error, DBAPIError) else None
    return getattr(original, "sqlstate", None) in ("40001", "40P01")


def _thread_pool() -> ThreadPool:
    return ThreadPool(0, _THREADS, name="store")


def _connect(url: str) -> Engine:
    try:
        parsed = make_url(url)
        dialect = _DIALECTS[parsed.drivername]
    except (ArgumentError, KeyError, ValueError) as error:
        raise StoreError(
            "The database URL is not understood: expected 'sqlite:////PATH' or "
            "'postgresql://USER:PASSWORD@HOST/NAME'."
        ) from error
    try:
        database = sqlalchemy.create_engine(
            parsed.set(drivername=dialect),
            hide_parameters=True,
            pool_pre_ping=dialect != "sqlite+pysqlite",  # a file does not hang up
            connect_args=_CONNECT_ARGUMENTS[dialect],
        )
    except (SQLAlchemyError, ImportError) as error:
        raise StoreError(
            f"The database {_name(parsed)} needs a driver that is not installed: "
            "pip install 'pkengine[postgresql]'."
        ) from error
    if database.dialect.name == "sqlite":
        event.listen(database, "connect", _prepare_sqlite)
        event.listen(database, "begin", _begin_sqlite)
    return database


def _prepare_sqlite(connection: object, record: object) -> None:
    """Hand transactions to `_begin_sqlite`, for the driver would begin them too late."""
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Begin; a writer takes its lock at once, since a reader that turns writer can fail."""
    is_write = connection.get_execution_options().get("is_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")


def _name(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _reason(error: SQLAlchemyError) -> str:
    """What the driver said: SQLAlchemy's own text has the statement and a web address."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(original).split()).rstrip(".?") or type(original).__name__
