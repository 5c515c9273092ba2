import threading
import time

import pytest

from portal.storage.database import Database
from portal.web.auth.login_attempts import AttemptStorage
from tests.support.databases import database, execute, url
from tests.support.postgres import postgres

__all__ = ["database", "postgres", "url"]  # fixtures


@pytest.fixture
def attempts(database: Database) -> AttemptStorage:
    return AttemptStorage("portal-database://", database)


def test_attempts_are_counted_by_key(attempts: AttemptStorage, database: Database) -> None:
    before = time.time()
    assert [attempts.incr("a", 60), attempts.incr("a", 60), attempts.incr("b", 60)] == [1, 2, 1]
    assert before + 59 < attempts.get_expiry("a") <= time.time() + 60
    other = AttemptStorage("portal-database://", database)
    assert [other.get("a"), other.get("c")] == [2, 0]
    other.clear("a")
    assert [attempts.get("a"), attempts.get("b")] == [0, 1]
    attempts.reset()
    assert attempts.get("b") == 0
    assert attempts.check()


def test_what_is_over_is_deleted(attempts: AttemptStorage, url: str) -> None:
    attempts.incr("a", 0)
    assert attempts.get("a") == 0
    assert attempts.get_expiry("a") <= time.time()
    assert attempts.incr("a", 60) == 1
    assert execute(url, "SELECT count FROM login_attempts") == [(1,)]


def test_no_attempt_is_lost_among_many(attempts: AttemptStorage) -> None:
    def tries() -> None:
        for _ in range(5):
            attempts.incr("a", 60)

    threads = [threading.Thread(target=tries) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert attempts.get("a") == 20


def test_a_database_that_cannot_be_used(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("none")
    assert not AttemptStorage("portal-database://", Database(f"sqlite:///{folder}")).check()
