"""One showing of the demo: raise the stage, play, report, stay for guests, end.

Ctrl-C, SIGTERM and a closed terminal end it in order; a second signal does not hurry the end, which
is bounded by the servers' own patience.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Final

from bridge.demo.conversation import SCRIPT, Conversation
from bridge.demo.hosts import Host
from bridge.demo.stage import DemoPorts, Stage
from bridge.demo.view import View
from bridge.errors import IsthmusError

_ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SETTINGS_PREFIX: Final = "ISTHMUS_"
_KEPT_VARIABLE: Final = "ISTHMUS_SYNAPSE_PYTHON"
_MEBIBYTE: Final = 1024 * 1024


class Performance:
    """`run` gives the exit code: 0 when every message arrived, 1 when one is missing."""

    def __init__(self, *, once: bool, ports: DemoPorts, view: View) -> None:
        self._once = once
        self._ports = ports
        self._view = view
        self._stage = Stage(ports=ports, view=view)
        self._ended_by: signal.Signals | None = None
        self._code: int | None = None

    async def run(self) -> int:
        forget_settings()
        self._ports.check()
        with self._ends_on_signals():
            try:
                await self._show()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._ended_by is None or task is None:
                    raise
                task.uncancel()
            except BaseExceptionGroup as group:
                raise _first_cause(group) from group
        self._view.note("Everything has ended; nothing is left behind.")
        if self._code is None:
            return 128 + (self._ended_by or signal.SIGTERM)
        return self._code

    @contextlib.contextmanager
    def _ends_on_signals(self) -> Iterator[None]:
        """Each of them cancels the task that runs us, once."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: signal.Signals) -> None:
            if self._ended_by is None and not self._stage.is_ending:
                self._ended_by = number
                self._view.note(f"\n{number.name}: ending ...")
                task.cancel()

        for number in _ENDING_SIGNALS:
            loop.add_signal_handler(number, end, number)
        try:
            yield
        finally:
            for number in _ENDING_SIGNALS:
                loop.remove_signal_handler(number)

    async def _show(self) -> None:
        begin = time.monotonic()
        async with self._stage as stage:
            ready_s = time.monotonic() - begin
            self._view.note(
                f"Ready after {ready_s:.1f} s (Isthmus itself {stage.isthmus.started_in_s:.1f} s, "
                f"Synapse {stage.synapse.started_in_s:.1f} s)."
            )
            cast = stage.cast
            conversation = Conversation(cast=cast, view=self._view)
            async with asyncio.TaskGroup() as group:
                watchers = [group.create_task(user.run()) for user in cast.matrix.values()]
                await conversation.play()
                self._report(stage, conversation, begin)
                if not self._once:
                    known = {cast.ghost_of(name) for name in cast.xmpp} | {cast.book.bot_id}
                    host = Host(
                        cast.matrix["alice"],
                        gateway=cast.book.server,
                        known=known,
                        view=self._view,
                    )
                    watchers.append(group.create_task(host.run()))
                    self._invite_guests(stage)
                    await asyncio.Event().wait()
                for watcher in watchers:
                    watcher.cancel()

    def _report(self, stage: Stage, conversation: Conversation, begin: float) -> None:
        missing = conversation.missing
        self._code = 1 if missing else 0
        self._view.heading("How it went")
        deliveries = sum(len(line.readers) for line in SCRIPT)
        if missing:
            self._view.note(f"{len(missing)} of {deliveries} deliveries are missing or wrong:")
            for text in missing:
                self._view.note(f"   {text}")
            self._view.note(f"The end of what Isthmus says:\n{stage.isthmus.log_tail(30)}")
        else:
            self._view.note(f"All {deliveries} deliveries of {len(SCRIPT)} messages have arrived.")
        if conversation.first_message_s is not None:
            elapsed_s = conversation.first_message_s - begin
            self._view.note(f"First message across after {elapsed_s:.1f} s.")
        if stage.isthmus.is_running:
            self._view.note(
                f"Isthmus uses {stage.isthmus.rss_bytes() / _MEBIBYTE:.0f} MiB (resident)."
            )
        else:
            self._code = 1
            self._view.note("Isthmus is no longer running.")

    def _invite_guests(self, stage: Stage) -> None:
        self._view.heading("Come in with a client of your own; Ctrl-C ends the demo")
        self._view.table(stage.invitation())
        self._view.note()


def forget_settings() -> None:
    """An operator's own settings in the environment must not reach the Isthmus of the demo."""
    for name in list(os.environ):
        if name.startswith(_SETTINGS_PREFIX) and name != _KEPT_VARIABLE:
            del os.environ[name]


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What we raised on purpose, if it is in there; else the first of all."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, IsthmusError)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from _leaves(inner)
        else:
            yield inner
