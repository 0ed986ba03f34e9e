"""The metrics, all of them. Never labelled by user, room, event or peer.

Labels have few values by construction: an area of ours, an HTTP method, a status, an outcome.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

_FAST_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SLOW_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)

HTTP_REQUESTS = Counter(
    "isthmus_http_requests", "Requests answered, by route.", ["route", "method", "status"]
)
HTTP_SECONDS = Histogram(
    "isthmus_http_request_seconds", "Time to answer a request.", ["route"], buckets=_FAST_S
)
HTTP_IN_FLIGHT = Gauge("isthmus_http_requests_in_flight", "Requests being worked on.")
HTTP_FAILURES = Counter(
    "isthmus_http_failures", "Requests that ended in an unexpected exception.", ["route"]
)

PEER_REQUESTS = Counter(
    "isthmus_peer_requests",
    "Requests to other servers: ok, refused, unavailable, bad_input.",
    ["endpoint", "outcome"],
)
PEER_SECONDS = Histogram(
    "isthmus_peer_request_seconds", "Time until a peer answered.", ["endpoint"], buckets=_SLOW_S
)
KEY_FETCHES = Counter("isthmus_key_fetches", "Fetches of servers' keys.", ["source", "outcome"])

EDUS = Counter(
    "isthmus_edus",
    "EDUs that other servers sent: taken, bad, refused, unknown, failed.",
    ["edu_type", "outcome"],
)
EDUS_SENT = Counter("isthmus_edus_sent", "EDUs that peers have taken from us.", ["edu_type"])

POLICY_REFUSALS = Counter(
    "isthmus_policy_refusals",
    "What a rule of the house refused, by where it was met and what the rule is about.",
    ["door", "subject"],
)

QUEUE_ITEMS = Counter(
    "isthmus_queue_items",
    "Attempts at items of inbox and outbox: done, postponed, parked, failed.",
    ["queue", "outcome"],
)
LANE_FAILURES = Counter(
    "isthmus_lane_failures", "Lanes that ended in an unexpected exception.", ["lanes"]
)


EDUS_NOT_STORED = Counter(
    "isthmus_edus_not_stored", "EDUs not kept, since too many waited for the peer.", ["edu_type"]
)
TO_DEVICE_MESSAGES = Counter(
    "isthmus_to_device_messages",
    "Messages to devices of our users: stored, repeated, no_device, full, not_ours, bad.",
    ["outcome"],
)
DEVICE_LIST_FETCHES = Counter(
    "isthmus_device_list_fetches", "Device lists fetched from other servers.", ["outcome"]
)


def render_metrics() -> tuple[bytes, str]:
    """The exposition text and its content type."""
    return generate_latest(), CONTENT_TYPE_LATEST
