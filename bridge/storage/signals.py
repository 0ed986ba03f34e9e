"""Wake-ups between processes on PostgreSQL: one thread with a connection of its own.

They are sent after the commit and not in it: a NOTIFY inside a transaction makes the server commit
such transactions one after the other. Many wake-ups of one topic become one.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

CHANNEL = "isthmus"
MAX_TOPICS = 1_000
RECONNECT_S = 2.0
LOOK_S = 30.0
START_S = 10.0


class Signals:
    """`on_wake` is called on the thread with the topics of other processes, or None: all."""

    def __init__(self, engine: Engine, on_wake: Callable[[set[str] | None], None]) -> None:
        self._engine = engine
        self._on_wake = on_wake
        self._lock = threading.Lock()
        self._topics: set[str] = set()
        self._ending = threading.Event()
        self._listening = threading.Event()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="isthmus-signals", daemon=True)

    def start(self) -> None:
        """Blocks until it listens; when that takes too long it goes on trying by itself."""
        self._thread.start()
        self._listening.wait(START_S)

    def send(self, topics: set[str]) -> None:
        with self._lock:
            was_empty = not self._topics
            if len(self._topics) < MAX_TOPICS:
                self._topics |= topics
        if was_empty:
            self._ring()

    def close(self) -> None:
        """Blocks until the thread has ended."""
        self._ending.set()
        self._ring()
        if self._thread.ident is not None:
            self._thread.join()
        self._bell.close()
        self._ear.close()
        self._engine.dispose()

    def _ring(self) -> None:
        try:
            self._bell.send(b"!")
        except BlockingIOError:
            return  # it rings already

    def _run(self) -> None:
        import psycopg

        while not self._ending.is_set():
            try:
                with self._engine.connect() as connection:
                    driver: Any = connection.connection.driver_connection
                    driver.execute(f"LISTEN {CHANNEL}")
                    if self._listening.is_set():
                        self._on_wake(None)
                    self._listening.set()
                    self._listen(driver)
                    connection.invalidate()
            except (SQLAlchemyError, psycopg.Error):
                self._ending.wait(RECONNECT_S)

    def _listen(self, driver: Any) -> None:
        own_pid = driver.info.backend_pid
        with selectors.DefaultSelector() as selector:
            selector.register(driver.fileno(), selectors.EVENT_READ)
            selector.register(self._ear, selectors.EVENT_READ)
            while not self._ending.is_set():
                if any(key.fileobj is self._ear for key, _ in selector.select(LOOK_S)):
                    self._ear.recv(4096)
                with self._lock:
                    outgoing, self._topics = self._topics, set()
                for topic in outgoing:
                    driver.execute("SELECT pg_notify(%s, %s)", (CHANNEL, topic))
                heard = {
                    notice.payload
                    for notice in driver.notifies(timeout=0, stop_after=None)
                    if notice.pid != own_pid
                }
                if heard:
                    self._on_wake(heard)
