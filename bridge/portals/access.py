"""What may be asked of foreign chats. The adapter is built on the portals, so it comes later."""

from __future__ import annotations

from typing import Protocol

from bridge.errors import Unavailable
from bridge.ids import UserId
from bridge.ports.chat import ChatInfo


class ChatQuestions(Protocol):
    """The questions of `ports.chat.ChatAdapter`."""

    async def describe(self, chat: str) -> ChatInfo: ...

    async def affiliation(self, chat: str, user_id: UserId) -> str | None: ...

    async def await_confirmation(self, chat: str, code: str, *, timeout_s: float) -> str | None: ...


class ChatAccess:
    """Fits `ChatQuestions` from the moment when the adapter is there; until then `Unavailable`."""

    def __init__(self) -> None:
        self._adapter: ChatQuestions | None = None

    def attach(self, adapter: ChatQuestions) -> None:
        self._adapter = adapter

    def _there(self) -> ChatQuestions:
        if self._adapter is None:
            raise Unavailable("the bridge is still starting")
        return self._adapter

    async def describe(self, chat: str) -> ChatInfo:
        return await self._there().describe(chat)

    async def affiliation(self, chat: str, user_id: UserId) -> str | None:
        return await self._there().affiliation(chat, user_id)

    async def await_confirmation(self, chat: str, code: str, *, timeout_s: float) -> str | None:
        return await self._there().await_confirmation(chat, code, timeout_s=timeout_s)
