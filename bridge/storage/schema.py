"""Every table of Isthmus, in one MetaData; `migrations/` makes the same ones step by step.

Identifiers are text, times are milliseconds since the epoch (`_ms`), JSON is text: event JSON the
canonical form that was hashed, the rest whatever `orjson` writes. Tables named `stream_…` are read
only through `streams.read_since`. Numbers given out are never given out again, even after the
newest rows are pruned: identifiers that others remember are made from them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts up by itself only in a column declared INTEGER.
_Serial = BigInteger().with_variant(Integer(), "sqlite")


def _serial(name: str) -> Column[int]:
    return Column(name, _Serial, primary_key=True, autoincrement=True)


# --- the database itself -------------------------------------------------------------------

meta = Table("meta", METADATA, Column("key", Text, primary_key=True), Column("value", Text))
"""`epoch`: random, renewed when a backup is restored (DESIGN, nothing lost, nothing twice)."""

leases = Table(
    "leases",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)

cursors = Table(
    "cursors",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
)
"""How far a durable reader of a stream has come."""

journal = Table(
    "journal",
    METADATA,
    _serial("journal_id"),
    Column("trace_id", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("step", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index(None, "trace_id"),
    Index(None, "at_ms"),
    sqlite_autoincrement=True,
)

# --- Matrix side ---------------------------------------------------------------------------

rooms = Table(
    "rooms",
    METADATA,
    Column("room_id", Text, primary_key=True),
    Column("version", Text, nullable=False),
    # Counts appends: what a transaction compares before it writes (DESIGN, Append).
    Column("position", BigInteger, nullable=False),
    # State after all forward extremities; NULL while we know the room by an invite only.
    Column("snapshot_id", BigInteger),
    # False once none of our users is joined: we then no longer claim to know the room.
    Column("joined", Boolean, nullable=False),
)

events = Table(
    "events",
    METADATA,
    Column("event_id", Text, primary_key=True),
    Column("room_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("state_key", Text),
    Column("sender", Text, nullable=False),
    Column("depth", BigInteger, nullable=False),
    Column("origin_server_ts", BigInteger, nullable=False),
    Column("json", Text, nullable=False),
    # accepted | soft_failed | rejected
    Column("verdict", Text, nullable=False),
    Column("rule", Text),
    # An outlier stands outside the graph: its state before is unknown.
    Column("outlier", Boolean, nullable=False),
    Column("snapshot_before", BigInteger),
    Column("redacted_by", Text),
    Column("received_ms", BigInteger, nullable=False),
    Column("trace_id", Text, nullable=False),
    Index(None, "room_id", "depth"),
    # The event closest to a time.
    Index(None, "room_id", "origin_server_ts", "depth"),
)

event_edges = Table(
    "event_edges",
    METADATA,
    Column("prev_event_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Index(None, "event_id"),
)

redactions = Table(
    "redactions",
    METADATA,
    # What it names; it need not be here yet.
    Column("target_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("room_id", Text, nullable=False),
    # Of its sender: what that server said may be redacted by it without any power.
    Column("server", Text, nullable=False),
    # Its sender might redact anything, where the redaction stands and when it came.
    Column("by_power", Boolean, nullable=False),
    Index(None, "room_id"),
)
"""Accepted redactions inside the graph, found by their target."""

forward_extremities = Table(
    "forward_extremities",
    METADATA,
    Column("room_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
)

gaps = Table(
    "gaps",
    METADATA,
    Column("room_id", Text, primary_key=True),
    # The missing event: somebody's prev_event that we do not have.
    Column("event_id", Text, primary_key=True),
)

snapshots = Table(
    "snapshots",
    METADATA,
    _serial("snapshot_id"),
    Column("room_id", Text, nullable=False),
    # NULL: `delta` is the whole map.
    Column("parent_id", BigInteger),
    Column("hops", Integer, nullable=False),
    # [[type, state_key, event_id | null], ...]
    Column("delta", Text, nullable=False),
    Index(None, "room_id"),
    sqlite_autoincrement=True,
)

memberships = Table(
    "memberships",
    METADATA,
    Column("room_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("server", Text, nullable=False),
    Column("membership", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Index(None, "user_id"),
    # Whole, so that counting members and naming their servers reads nothing else.
    Index(None, "room_id", "membership", "server"),
)
"""The member events of the current state; of a room that we are not in, our users' invites and
knocks."""

invites = Table(
    "invites",
    METADATA,
    Column("room_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("event_id", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("room_state", Text, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
)
"""Invites of our users to rooms that we are not in, and their knocks, with the stripped state that
came along."""

stream_events = Table(
    "stream_events",
    METADATA,
    _serial("position"),
    Column("room_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    # Written by this server (or let in by it), hence ours to send to the other servers.
    Column("outgoing", Boolean, nullable=False),
    # It was the room's past when we came in: shown as history, told to nobody as new.
    Column("historic", Boolean, nullable=False),
    Index(None, "room_id", "position"),
    UniqueConstraint("event_id"),
    sqlite_autoincrement=True,
)
"""The arrival order of all accepted events, and of invites from outside."""

stream_acceptances = Table(
    "stream_acceptances",
    METADATA,
    _serial("position"),
    Column("event_id", Text, nullable=False),
    Column("room_id", Text, nullable=False),
    Column("server", Text, nullable=False),
    # What the peer said about this PDU; NULL: it took it.
    Column("error", Text),
    Index(None, "event_id"),
    sqlite_autoincrement=True,
)
"""Which peer has received which of our events."""

aliases = Table(
    "aliases",
    METADATA,
    Column("alias", Text, primary_key=True),
    Column("room_id", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Index(None, "room_id"),
)

published_rooms = Table(
    "published_rooms",
    METADATA,
    Column("room_id", Text, primary_key=True),
    # One of ours is in it; what follows is its state, kept by the commits that change it.
    Column("joined", Boolean, nullable=False),
    Column("joined_members", Integer, nullable=False),
    Column("name", Text),
    Column("topic", Text),
    Column("canonical_alias", Text),
    Column("avatar_url", Text),
    Column("join_rule", Text, nullable=False),
    Column("room_type", Text),
    Column("world_readable", Boolean, nullable=False),
    Column("guest_can_join", Boolean, nullable=False),
    # Users of other servers may join at all.
    Column("federated", Boolean, nullable=False),
    # Content of the server ACL, where there is one.
    Column("acl", Text),
    # Name, topic and alias as a search compares them.
    Column("folded", Text, nullable=False),
    Column("published_by", Text, nullable=False),
    Column("published_ms", BigInteger, nullable=False),
    Index(None, "joined_members", "room_id"),
)
"""Rooms that we list for everybody."""

profiles = Table(
    "profiles",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("displayname", Text),
    Column("avatar_url", Text),
)

local_transactions = Table(
    "local_transactions",
    METADATA,
    # Whoever sends chooses the ID; with it sending twice is sending once.
    Column("transaction_id", Text, primary_key=True),
    Column("room_id", Text, nullable=False),
    Column("event_id", Text),
    Column("at_ms", BigInteger, nullable=False),
    Index(None, "event_id"),
)

transactions = Table(
    "transactions",
    METADATA,
    Column("origin", Text, primary_key=True),
    Column("transaction_id", Text, primary_key=True),
    Column("received_ms", BigInteger, nullable=False),
    Column("event_ids", Text, nullable=False),
)
"""Federation transactions that we answered, so that a replay gets the same answer."""

inbound_pdus = Table(
    "inbound_pdus",
    METADATA,
    _serial("inbound_id"),
    Column("room_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("json", Text, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    # NULL while it waits; otherwise why it was refused. What was accepted has no row.
    Column("outcome", Text),
    Column("trace_id", Text, nullable=False),
    UniqueConstraint("event_id"),
    Index(None, "room_id", "inbound_id"),
    # What waits is found without looking at what was refused.
    Index(None, "outcome"),
    sqlite_autoincrement=True,
)
"""PDUs from transactions, stored before they are understood; one lane per room works them off."""

server_keys = Table(
    "server_keys",
    METADATA,
    Column("server", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("verify_key", Text, nullable=False),
    Column("valid_until_ms", BigInteger, nullable=False),
    # Set for an old key: it counts only for events before this time.
    Column("expired_ms", BigInteger),
    Column("fetched_ms", BigInteger, nullable=False),
)

key_documents = Table(
    "key_documents",
    METADATA,
    Column("server", Text, primary_key=True),
    # As the server signed it; nobody else's signature is in it.
    Column("json", Text, nullable=False),
    Column("valid_until_ms", BigInteger, nullable=False),
    Column("fetched_ms", BigInteger, nullable=False),
)
"""The newest key document of each server, for those who ask us as their notary."""

peers = Table(
    "peers",
    METADATA,
    Column("server", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Column("last_success_ms", BigInteger),
    Column("last_error", Text),
    # Hints: {"I.1": true, "12": false}: versions it is known to speak or has refused.
    Column("room_versions", Text, nullable=False),
    Column("software", Text),
    Column("software_ms", BigInteger),
)

peer_rooms = Table(
    "peer_rooms",
    METADATA,
    Column("server", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("sent_position", BigInteger, nullable=False),
    Column("newest_position", BigInteger, nullable=False),
)
"""Positions in stream_events: how far a peer has been sent a room, and how far it should be."""

outbound_edus = Table(
    "outbound_edus",
    METADATA,
    _serial("row_id"),
    Column("server", Text, nullable=False),
    Column("edu_type", Text, nullable=False),
    # Idempotence: the same EDU put twice is one row as long as it waits.
    Column("edu_id", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    UniqueConstraint("server", "edu_type", "edu_id"),
    Index(None, "server", "row_id"),
    sqlite_autoincrement=True,
)
"""EDUs of which every one counts, until the peer has them."""

outbound_receipts = Table(
    "outbound_receipts",
    METADATA,
    Column("server", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    # Root event or "main"; "": for the whole room.
    Column("thread_id", Text, primary_key=True),
    Column("event_id", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
"""How far our users have read, where a peer has still to be told."""

receipts = Table(
    "receipts",
    METADATA,
    Column("room_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    # m.read; what others may not see is of another kind.
    Column("kind", Text, primary_key=True),
    # Root event or "main"; "": for the whole room.
    Column("thread_id", Text, primary_key=True),
    # It need not be here.
    Column("event_id", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
"""How far everybody in our rooms has read."""

# --- people: devices, keys, messages to devices --------------------------------------------

devices = Table(
    "devices",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("display_name", Text),
    # As its client uploaded them; NULL: a device without end-to-end encryption.
    Column("keys", Text),
    # The user's stream when it last changed.
    Column("stream_id", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)
"""Devices of our own users."""

device_streams = Table(
    "device_streams",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("stream_id", BigInteger, nullable=False),
)
"""The version of each of our users' device lists; it counts up."""

device_list_shares = Table(
    "device_list_shares",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("server", Text, primary_key=True),
    # What it was told last: the next update names it as its predecessor.
    Column("stream_id", BigInteger, nullable=False),
)
"""Which server follows which of our users' device lists."""

one_time_keys = Table(
    "one_time_keys",
    METADATA,
    _serial("key_number"),
    Column("user_id", Text, nullable=False),
    Column("device_id", Text, nullable=False),
    Column("algorithm", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("json", Text, nullable=False),
    # Given to somebody: kept for a while, so that the same upload again does not bring it back.
    Column("claimed_ms", BigInteger),
    UniqueConstraint("user_id", "device_id", "algorithm", "key_id"),
    Index(None, "user_id", "device_id", "algorithm", "claimed_ms"),
    Index(None, "claimed_ms"),
    sqlite_autoincrement=True,
)

fallback_keys = Table(
    "fallback_keys",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("algorithm", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("json", Text, nullable=False),
    Column("used", Boolean, nullable=False),
)

cross_signing_keys = Table(
    "cross_signing_keys",
    METADATA,
    Column("user_id", Text, primary_key=True),
    # master | self_signing | user_signing
    Column("usage", Text, primary_key=True),
    Column("json", Text, nullable=False),
)
"""Of our users, and of users of other servers whose device list we keep."""

key_signatures = Table(
    "key_signatures",
    METADATA,
    Column("target_user", Text, primary_key=True),
    # A device ID, or the public key of a cross-signing key.
    Column("target_key", Text, primary_key=True),
    Column("signer", Text, primary_key=True),
    Column("signing_key", Text, primary_key=True),
    Column("signature", Text, nullable=False),
)
"""Signatures that our users put on keys afterwards, theirs and others'."""

remote_device_lists = Table(
    "remote_device_lists",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("server", Text, nullable=False),
    Column("stream_id", BigInteger),
    # [stream_id, ...]: the updates that are in it, the newest last; a bounded number of them.
    Column("seen", Text, nullable=False),
    # What is kept is not to be relied on: the list must be fetched.
    Column("stale", Boolean, nullable=False),
    # Counts what was heard while it was stale: an older answer does not settle the matter.
    Column("marks", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Index(None, "stale", "next_attempt_ms"),
)
"""Device lists of other servers' users, as far as we follow them."""

remote_devices = Table(
    "remote_devices",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("display_name", Text),
    Column("keys", Text),
)

stream_device_lists = Table(
    "stream_device_lists",
    METADATA,
    _serial("position"),
    Column("user_id", Text, nullable=False),
    Index(None, "user_id"),
    sqlite_autoincrement=True,
)
"""Whose devices or keys changed, ours and others': the newest change of each."""

stream_to_device = Table(
    "stream_to_device",
    METADATA,
    _serial("position"),
    Column("user_id", Text, nullable=False),
    Column("device_id", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Index(None, "user_id", "device_id", "position"),
    sqlite_autoincrement=True,
)
"""Messages to devices of our users, until the device has them."""

to_device_received = Table(
    "to_device_received",
    METADATA,
    Column("origin", Text, primary_key=True),
    Column("sender", Text, primary_key=True),
    Column("message_id", Text, primary_key=True),
    Column("received_ms", BigInteger, nullable=False),
    Index(None, "received_ms"),
)
"""Messages to devices that were taken, so that a repetition changes nothing."""

openid_tokens = Table(
    "openid_tokens",
    METADATA,
    Column("token_hash", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Index(None, "expires_ms"),
)
"""Who a token for third parties stands for; the token itself is not here."""

# --- bridge side ---------------------------------------------------------------------------

inbox = Table(
    "inbox",
    METADATA,
    _serial("inbox_id"),
    Column("lane", Text, nullable=False),
    Column("adapter", Text, nullable=False),
    # Idempotence: the same message from the same source is one row.
    Column("source", Text, nullable=False),
    Column("source_id", Text, nullable=False),
    Column("payload", Text, nullable=False),
    # waiting | done | parked | dropped
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Column("reason", Text),
    # The author has been told that this one waits.
    Column("told_waiting", Boolean, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    UniqueConstraint("source", "source_id"),
    Index(None, "status", "lane", "inbox_id"),
    sqlite_autoincrement=True,
)

outbox = Table(
    "outbox",
    METADATA,
    _serial("outbox_id"),
    Column("lane", Text, nullable=False),
    Column("adapter", Text, nullable=False),
    # Idempotence: one cause makes one row, however often it is looked at.
    Column("cause", Text, nullable=False),
    Column("payload", Text, nullable=False),
    # waiting | done | parked | dropped
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Column("reason", Text),
    # The author has been told that this one waits.
    Column("told_waiting", Boolean, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    UniqueConstraint("cause"),
    Index(None, "status", "lane", "outbox_id"),
    sqlite_autoincrement=True,
)

ghosts = Table(
    "ghosts",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("adapter", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    UniqueConstraint("adapter", "address"),
)

portals = Table(
    "portals",
    METADATA,
    _serial("portal_id"),
    Column("adapter", Text, nullable=False),
    # direct: one address and one Matrix user; served: a Matrix room offered as a chat;
    # portal, plumbed: a foreign chat and its room; moved: an upgraded room and its successor
    Column("kind", Text, nullable=False),
    # direct: the address; served, moved: the room ID; portal, plumbed: the chat
    Column("chat", Text, nullable=False),
    # direct: the Matrix user; served, portal, plumbed: ""
    Column("user_id", Text, nullable=False),
    Column("room_id", Text),
    # open | closed | refused (the Matrix user turned the invitation down) | closing (a foreign
    # chat's: nothing is bridged any more, its ghosts have still to leave the room); of moved:
    # moving | moved | refused
    Column("status", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("closed_ms", BigInteger),
    # plumbed: the newest position of the stream when the room was bound; moved: the tombstone's
    Column("since_position", BigInteger),
    UniqueConstraint("adapter", "kind", "chat", "user_id"),
    Index(None, "room_id"),
    sqlite_autoincrement=True,
)

messages = Table(
    "messages",
    METADATA,
    _serial("message_id"),
    Column("adapter", Text, nullable=False),
    Column("room_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    # Several stanzas for one event count up from 0; so do several events from one stanza.
    Column("part", Integer, nullable=False),
    Column("chat", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("stanza_id", Text, nullable=False),
    Column("origin_id", Text),
    # chat | matrix: where it was written
    Column("origin", Text, nullable=False),
    # The author asked for a receipt (XEP-0184) and has not had it yet.
    Column("receipt_due", Boolean, nullable=False),
    # The client that wrote it and the address it wrote to: where receipts and notices go.
    Column("session", Text, nullable=False),
    Column("sent_to", Text, nullable=False),
    # Written on the chat side and not yet accepted by any recipient's server.
    Column("pending", Boolean, nullable=False),
    # When the author was last told that it waits.
    Column("noticed_ms", BigInteger),
    Column("at_ms", BigInteger, nullable=False),
    UniqueConstraint("adapter", "event_id", "part"),
    Index(None, "adapter", "chat", "sender", "stanza_id"),
    Index(None, "room_id", "event_id"),
    Index(None, "pending", "at_ms"),
    # What an author knows of a message, when they ask what became of it.
    Index(None, "stanza_id"),
    Index(None, "origin_id"),
    sqlite_autoincrement=True,
)
"""The message map."""

sessions = Table(
    "sessions",
    METADATA,
    Column("room_id", Text, primary_key=True),
    # The full JID of the client.
    Column("address", Text, primary_key=True),
    # Bare JID of the room by which this session entered, and the nickname it asked for.
    Column("entered_by", Text, nullable=False),
    Column("nickname", Text, nullable=False),
    # Events up to here came with the join itself.
    Column("since_position", BigInteger, nullable=False),
    Column("entered_ms", BigInteger, nullable=False),
    Index(None, "address"),
)
"""XMPP clients inside rooms that we serve."""

nicknames = Table(
    "nicknames",
    METADATA,
    Column("room_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("nickname", Text, nullable=False),
    Column("folded", Text, nullable=False),
    UniqueConstraint("room_id", "folded"),
)

subscriptions = Table(
    "subscriptions",
    METADATA,
    # The XMPP person's bare JID, and the Matrix user.
    Column("address", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    # none | from | to | both, seen from the XMPP person
    Column("state", Text, nullable=False),
)

chats = Table(
    "chats",
    METADATA,
    Column("adapter", Text, primary_key=True),
    Column("chat", Text, primary_key=True),
    # How its occupants are known, chosen at first sight: address | occupant-id | nickname
    Column("identity", Text),
    # The newest message that we have stored, by the chat's own ID and by its time: a catch-up goes
    # on from there.
    Column("archive_id", Text),
    Column("archive_ms", BigInteger),
)
"""Foreign chats that we visit."""

guests = Table(
    "guests",
    METADATA,
    Column("adapter", Text, primary_key=True),
    Column("chat", Text, primary_key=True),
    # Of any server; our bot where it relays.
    Column("user_id", Text, primary_key=True),
    # The nickname last held in the chat.
    Column("nickname", Text, nullable=False),
    Column("entered_ms", BigInteger, nullable=False),
)
"""Our people inside foreign chats: who is to be in, connected or not."""

occupants = Table(
    "occupants",
    METADATA,
    Column("adapter", Text, primary_key=True),
    Column("chat", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("nickname", Text, nullable=False),
    # Their ghost is in the chat's room because they are in the chat.
    Column("joined", Boolean, nullable=False),
    # Since when they are not in the chat any more; NULL while they are.
    Column("absent_ms", BigInteger),
    Index(None, "absent_ms"),
)
"""Their people in foreign chats that we visit, as far as Matrix has been told of them."""

policy_rules = Table(
    "policy_rules",
    METADATA,
    _serial("rule_id"),
    # bot, or the ID of the policy room; those of the configuration are no rows
    Column("source", Text, nullable=False),
    # Of a policy room: event type and state key, a blank between them; of the bot's: ""
    Column("source_key", Text, nullable=False),
    # allow | deny, and server | user | room
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("glob", Text, nullable=False),
    # The names of the scopes, blanks between them.
    Column("scopes", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # Who made it.
    Column("made_by", Text, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Index(None, "source", "source_key"),
    sqlite_autoincrement=True,
)
"""The rules of the house."""

policy_rooms = Table(
    "policy_rooms",
    METADATA,
    Column("room_id", Text, primary_key=True),
    Column("made_by", Text, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
)
"""Policy rooms whose rules hold here."""

# --- media ---------------------------------------------------------------------------------

media = Table(
    "media",
    METADATA,
    # The server in its mxc URI: ours, or that of a peer whose media we have fetched.
    Column("origin", Text, primary_key=True),
    Column("media_id", Text, primary_key=True),
    Column("content_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # The name of the file as it was uploaded, if it had one.
    Column("name", Text),
    # Of an image, in pixels, where we could tell.
    Column("width", Integer),
    Column("height", Integer),
    Column("sha256", Text, nullable=False),
    # One of our own users; NULL: fetched from a peer.
    Column("uploader", Text),
    # Shown to nobody.
    Column("quarantined", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    # To the hour: what was not asked for longest goes first when there is too much.
    Column("accessed_ms", BigInteger, nullable=False),
    Index(None, "uploader"),
    Index(None, "origin", "accessed_ms"),
)
"""Files whose bytes stand in the data folder (`media/store`)."""

media_thumbnails = Table(
    "media_thumbnails",
    METADATA,
    Column("origin", Text, primary_key=True),
    Column("media_id", Text, primary_key=True),
    Column("width", Integer, primary_key=True),
    Column("height", Integer, primary_key=True),
    # scale | crop
    Column("method", Text, primary_key=True),
    Column("animated", Boolean, primary_key=True),
    Column("content_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)
"""Thumbnails that were made, by the size that was wished."""
