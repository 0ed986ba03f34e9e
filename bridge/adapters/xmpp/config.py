"""Settings of the XMPP side: where the component connects, and its limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from bridge.adapters.xmpp.jid import prepare_domain
from bridge.errors import BadInput

Positive = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class XmppLimits(BaseModel):
    """What bounds memory, queues and patience. The defaults suit a server of any size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stanza_bytes: Positive = 128 * 1024
    """Greater stanzas are refused in both directions."""
    stanza_depth: Positive = 40
    inbound_stanzas: Positive = 1000
    """Stanzas that have not been sorted; at this number we stop reading from the XMPP server."""
    waiting_stanzas: Positive = 5000
    """Waiting stanzas of all chats; at this number no more are sorted."""
    waiting_bytes: Positive = 64 << 20
    """The same for the memory that they take."""
    lane_stanzas: Positive = 2000
    """Waiting stanzas of one chat; further ones get `resource-constraint`."""
    lane_bytes: Positive = 8 << 20
    """The same for the memory that they take."""
    beside: Positive = 500
    """What may go on beside the lanes: people entering, checks of sessions, declined invites."""
    lookup_timeout_s: PositiveSeconds = 20
    """For questions that are answered by asking another server."""
    joins: Positive = 64
    """People entering rooms at the same time, and questions about rooms."""
    members_shown: Positive = 500
    """Occupants that are listed to somebody who enters."""
    history_messages: Annotated[int, Field(ge=0)] = 20
    """How much of the past somebody sees who enters and does not say how much."""
    history_messages_max: Annotated[int, Field(ge=0)] = 100
    states_sessions: Annotated[int, Field(ge=0)] = 20
    """Clients in one of our rooms up to which they are shown who types and who has read."""
    join_hint_s: PositiveSeconds = 3
    """A join that takes longer is spoken of by the bot."""
    join_timeout_s: PositiveSeconds = 20
    """A join that takes longer is answered, goes on, and ends in an invitation."""
    join_deadline_s: PositiveSeconds = 600
    fence_timeout_s: PositiveSeconds = 30
    keepalive_s: PositiveSeconds = 20
    reconnect_max_s: PositiveSeconds = 30
    refused_retry_s: PositiveSeconds = 60
    """How often a refused secret is tried again."""
    describe_timeout_s: PositiveSeconds = 8
    """How long a foreign room may take to describe itself: homeservers give up after about 10 s."""
    guest_timeout_s: PositiveSeconds = 30
    """How long a foreign room may take to let somebody in, and to show what was posted there."""
    guests: Annotated[int, Field(ge=0)] = 100
    """Matrix people in one foreign room with a nickname of their own; the others share one."""
    guest_joins_per_s: PositiveSeconds = 20
    """How fast they come back into foreign rooms after a reconnect."""
    catchup_messages: Annotated[int, Field(ge=0)] = 5000
    """Messages of the past that are fetched from a foreign room's archive after an absence."""
    session_pings_per_s: PositiveSeconds = 20
    """How fast remembered sessions are checked after a reconnect."""
    session_ping_timeout_s: PositiveSeconds = 30


class XmppSettings(BaseModel):
    """One XEP-0114 component."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain: str
    """The component's domain: people and rooms of Matrix have their addresses there."""
    secret: SecretStr
    host: str = "127.0.0.1"
    """Where the XMPP server listens for components."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 5347
    limits: XmppLimits = XmppLimits()

    @field_validator("domain")
    @classmethod
    def _prepared(cls, value: str) -> str:
        try:
            if prepare_domain(value, strict=True) != value:
                raise ValueError("not the canonical spelling of a domain")
        except BadInput as exc:
            raise ValueError(exc.reason) from exc
        return value
