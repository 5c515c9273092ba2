import shutil
import sqlite3
import threading
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from portal.errors import StateUnavailable
from portal.storage import database as module
from portal.storage.database import Database
from tests.support.databases import database, execute, url
from tests.support.postgres import Postgres, postgres

__all__ = ["database", "postgres", "url"]  # fixtures


def write(database: Database, word: str) -> None:
    with database.transaction() as session:
        session.execute(text("INSERT INTO defaults VALUES (:word, '1.0', NULL)"), {"word": word})


def words(database: Database) -> set[str]:
    with database.transaction() as session:
        return set(session.scalars(text("SELECT model FROM defaults")))


def test_what_raises_is_taken_back(database: Database) -> None:
    def spoil() -> None:
        with database.transaction() as session:
            session.execute(text("INSERT INTO defaults VALUES ('a', '1.0', NULL)"))
            raise KeyError

    with pytest.raises(KeyError):
        spoil()
    assert words(database) == set()
    database.check()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "portal.db"
    path.write_text("this is no database, but long enough to look at" * 50)
    with pytest.raises(StateUnavailable, match="PORTAL_DATABASE_URL"):
        Database(f"sqlite:///{path}").open()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(StateUnavailable, match="in memory, which would be forgotten"):
        Database(url).open()


def test_a_path_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "100% #1" / "portal db&"
    database = Database(f"sqlite:///{path}")
    write(database, "a")
    database.close()
    assert path.stat().st_size > 0


def test_a_password_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    database = Database("postgresql+psycopg://user:geheim@127.0.0.1:1/database")
    for ask in (database.open, database.check, database.connection):
        with pytest.raises(StateUnavailable) as refused:
            ask()
        assert "geheim" not in str(refused.value) + caplog.text


class TestAFile:
    """Of SQLite, while the portal runs."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "portal.db"

    @pytest.fixture
    def url(self, path: Path) -> str:
        return f"sqlite:///{path}"

    def test_that_is_removed_is_not_made_anew(self, database: Database, path: Path) -> None:
        write(database, "before")
        path.unlink()
        for ask in (database.open, database.check, lambda: write(database, "after")):
            with pytest.raises(StateUnavailable, match="is gone: its file was there when"):
                ask()
        assert not path.exists()
        database.close()  # nor after that
        with pytest.raises(StateUnavailable, match="is gone"):
            database.open()
        assert not path.exists()

    def test_that_is_moved_away_and_back_is_used_again(
        self, database: Database, path: Path
    ) -> None:
        write(database, "before")
        away = path.rename(path.with_name("away.db"))
        with pytest.raises(StateUnavailable):
            write(database, "meanwhile")
        # whole by itself, though its log has kept the old name
        with sqlite3.connect(shutil.copy(away, path.with_name("copy.db"))) as copy:
            assert copy.execute("SELECT model FROM defaults").fetchall() == [("before",)]
        copy.close()
        away.rename(path)
        write(database, "after")
        assert words(database) == {"before", "after"}

    def test_that_is_replaced_is_opened_anew(self, database: Database, path: Path) -> None:
        write(database, "of the first")
        other = Database(f"sqlite:///{path}.other")
        write(other, "of the second")
        other.close()
        Path(f"{path}.other").replace(path)
        assert words(database) == {"of the second"}
        write(database, "after")
        database.close()
        assert {word for (word,) in execute(f"sqlite:///{path}", "SELECT model FROM defaults")} == {
            "of the second", "after",
        }  # fmt: skip
        assert execute(f"sqlite:///{path}", "PRAGMA integrity_check") == [("ok",)]

    def test_that_is_replaced_by_an_empty_one_is_filled(
        self, database: Database, path: Path
    ) -> None:
        write(database, "of the first")
        path.unlink()
        path.touch()
        assert words(database) == set()
        database.check()

    def test_that_goes_during_a_transaction_has_not_kept_it(
        self, database: Database, path: Path
    ) -> None:
        def lose() -> None:
            with database.transaction() as session:
                session.execute(text("INSERT INTO defaults VALUES ('a', '1.0', NULL)"))
                path.unlink()

        with pytest.raises(StateUnavailable, match="removed or replaced during this request"):
            lose()

    def test_whose_log_another_program_keeps_is_refused(
        self, database: Database, path: Path
    ) -> None:
        write(database, "of the first")
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM defaults").fetchall()
        write(database, "in the log")
        path.unlink()
        path.touch()
        with pytest.raises(StateUnavailable, match="the write-ahead log of the former"):
            database.open()
        reader.close()
        path.with_name("portal.db-wal").unlink()
        assert words(database) == set()

    def test_that_is_locked_is_told_at_once(
        self, database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PATIENCE", 200)
        database.open()
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        for ask in (database.check, lambda: write(database, "a")):
            with pytest.raises(StateUnavailable, match="is locked: another program holds it"):
                ask()
        assert words(database) == set()  # it can be read
        locker.execute("ROLLBACK")
        locker.close()
        database.check()
        write(database, "a")

    def test_whose_tables_were_dropped_gets_them_again(self, database: Database, url: str) -> None:
        write(database, "a")
        tables = execute(url, "SELECT name FROM sqlite_master WHERE type = 'table'")
        execute(url, *(f"DROP TABLE {table}" for (table,) in tables))
        with pytest.raises(StateUnavailable, match="PORTAL_DATABASE_URL"):
            words(database)
        assert words(database) == set()

    def test_of_a_later_release_is_told_while_running(self, database: Database, url: str) -> None:
        database.check()
        execute(url, "UPDATE alembic_version SET version_num = '0999'")
        for ask in (database.check, lambda: write(database, "a")):
            with pytest.raises(StateUnavailable, match="revision 0999"):
                ask()
        assert execute(url, "SELECT * FROM defaults") == []


class TestAServer:
    """A Postgres, while the portal runs."""

    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.new_database()

    def test_that_ends_the_connections_is_asked_again(
        self, database: Database, postgres: Postgres
    ) -> None:
        write(database, "a")
        with postgres.connect() as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname LIKE 'portal%'"
            )
        assert words(database) == {"a"}

    def test_that_is_away_keeps_requests_apart(self, database: Database, url: str) -> None:
        database.open()
        engine = database._engine
        execute(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()")  # fmt: skip
        write(database, "a")
        assert database._engine is engine

    def test_without_the_database_is_told(
        self, database: Database, postgres: Postgres, url: str
    ) -> None:
        write(database, "a")
        name = url.rpartition("/")[2]
        with postgres.connect() as other:
            other.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        for ask in (database.check, lambda: write(database, "b")):
            with pytest.raises(StateUnavailable, match="PORTAL_DATABASE_URL"):
                ask()
        with postgres.connect() as other:
            other.execute(f"CREATE DATABASE {name}".encode())
        with pytest.raises(StateUnavailable, match="revision none"):
            database.check()
        assert words(database) == set()
        database.check()

    def test_with_a_locked_table_is_told_at_once(
        self, database: Database, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(module.POSTGRES_LIMITS, "options", "-c lock_timeout=200")
        other = Database(url)
        with other.transaction() as session:
            session.execute(text("LOCK TABLE defaults"))
            for ask in (database.check, lambda: write(database, "a")):
                with pytest.raises(StateUnavailable, match="is locked: another program holds it"):
                    ask()
        other.close()
        database.check()


def test_threads_that_open_at_once(database: Database) -> None:
    threads = [threading.Thread(target=write, args=(database, str(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(words(database)) == 8


def test_the_file_keeps_its_descriptors(tmp_path: Path) -> None:
    """Many times removed and put back, without a connection left behind."""
    path = tmp_path / "portal.db"
    database = Database(f"sqlite:///{path}")
    write(database, "a")
    before = psutil.Process().num_fds()
    for _ in range(10):
        away = path.rename(path.with_name("away.db"))
        with pytest.raises(StateUnavailable):
            database.open()
        away.rename(path)
        assert words(database) == {"a"}
    assert psutil.Process().num_fds() <= before + 2
    database.close()
