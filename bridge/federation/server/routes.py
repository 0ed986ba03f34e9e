"""The whole URL table of the server-server API, in the order of the specification.

What is not here answers M_UNRECOGNIZED (`web`).
"""

from __future__ import annotations

from bridge.federation.server.auth import Authentication, PeerEndpoint
from bridge.federation.server.events import Events
from bridge.federation.server.keys import Keys
from bridge.federation.server.media import Media
from bridge.federation.server.membership import Membership
from bridge.federation.server.notary import MAX_BODY_BYTES as MAX_KEY_QUERY_BYTES
from bridge.federation.server.notary import Notary
from bridge.federation.server.people import MAX_BODY_BYTES as MAX_KEYS_BODY_BYTES
from bridge.federation.server.people import PeopleEndpoints
from bridge.federation.server.queries import Queries
from bridge.federation.server.room_lists import RoomLists
from bridge.federation.server.transactions import MAX_BODY_BYTES, Transactions
from bridge.policy.rules import Scope
from bridge.web.routing import Route

_KEY = "/_matrix/key/v2"
_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"


def federation_routes(
    *,
    authentication: Authentication,
    keys: Keys,
    notary: Notary,
    transactions: Transactions,
    events: Events,
    membership: Membership,
    queries: Queries,
    people: PeopleEndpoints,
    room_lists: RoomLists,
    media: Media,
) -> tuple[Route, ...]:
    """Routes for `web.WebServer`; each endpoint that is not open to anybody checks who asks."""

    def signed(
        method: str,
        path: str,
        endpoint: PeerEndpoint,
        max_body_bytes: int | None = None,
        *,
        scope: Scope = Scope.ALL,
        is_counted: bool = True,
    ) -> Route:
        return Route(
            method=method,
            path=path,
            endpoint=authentication.signed(endpoint, scope, is_counted=is_counted),
            max_body_bytes=max_body_bytes,
        )

    return (
        # Server implementation, and keys.
        Route(method="GET", path=f"{_V1}/version", endpoint=keys.version),
        Route(method="GET", path=f"{_KEY}/server", endpoint=keys.own),
        # As it used to be asked for; which key is named makes no difference.
        Route(method="GET", path=f"{_KEY}/server/{{key_id}}", endpoint=keys.own),
        Route(
            method="POST",
            path=f"{_KEY}/query",
            endpoint=notary.query,
            max_body_bytes=MAX_KEY_QUERY_BYTES,
        ),
        Route(method="GET", path=f"{_KEY}/query/{{server_name}}", endpoint=notary.query_one),
        Route(
            method="GET",
            path=f"{_KEY}/query/{{server_name}}/{{key_id}}",
            endpoint=notary.query_one,
        ),
        # Transactions.
        signed(
            "PUT", f"{_V1}/send/{{txn_id}}", transactions.send, MAX_BODY_BYTES, is_counted=False
        ),
        # PDUs: auth chains, backfill, events, state.
        signed("GET", f"{_V1}/event_auth/{{room_id}}/{{event_id}}", events.event_auth),
        signed("GET", f"{_V1}/backfill/{{room_id}}", events.backfill),
        signed("POST", f"{_V1}/get_missing_events/{{room_id}}", events.get_missing_events),
        signed("GET", f"{_V1}/event/{{event_id}}", events.event),
        signed("GET", f"{_V1}/state/{{room_id}}", events.state),
        signed("GET", f"{_V1}/state_ids/{{room_id}}", events.state_ids),
        signed("GET", f"{_V1}/timestamp_to_event/{{room_id}}", events.timestamp_to_event),
        # Joining.
        signed(
            "GET",
            f"{_V1}/make_join/{{room_id}}/{{user_id}}",
            membership.make_join,
            scope=Scope.JOINS,
        ),
        signed(
            "PUT",
            f"{_V1}/send_join/{{room_id}}/{{event_id}}",
            membership.send_join_v1,
            scope=Scope.JOINS,
        ),
        signed(
            "PUT",
            f"{_V2}/send_join/{{room_id}}/{{event_id}}",
            membership.send_join,
            scope=Scope.JOINS,
        ),
        # Knocking.
        signed(
            "GET",
            f"{_V1}/make_knock/{{room_id}}/{{user_id}}",
            membership.make_knock,
            scope=Scope.KNOCKS,
        ),
        signed(
            "PUT",
            f"{_V1}/send_knock/{{room_id}}/{{event_id}}",
            membership.send_knock,
            scope=Scope.KNOCKS,
        ),
        # Inviting.
        signed(
            "PUT",
            f"{_V1}/invite/{{room_id}}/{{event_id}}",
            membership.invite_v1,
            scope=Scope.INVITES,
        ),
        signed(
            "PUT", f"{_V2}/invite/{{room_id}}/{{event_id}}", membership.invite, scope=Scope.INVITES
        ),
        # Leaving.
        signed("GET", f"{_V1}/make_leave/{{room_id}}/{{user_id}}", membership.make_leave),
        signed("PUT", f"{_V1}/send_leave/{{room_id}}/{{event_id}}", membership.send_leave_v1),
        signed("PUT", f"{_V2}/send_leave/{{room_id}}/{{event_id}}", membership.send_leave),
        # Third-party invites.
        signed(
            "PUT",
            f"{_V1}/exchange_third_party_invite/{{room_id}}",
            membership.exchange_third_party_invite,
            scope=Scope.INVITES,
        ),
        # The public room directory.
        signed("GET", f"{_V1}/publicRooms", room_lists.public_rooms),
        signed("POST", f"{_V1}/publicRooms", room_lists.search),
        # Spaces.
        signed("GET", f"{_V1}/hierarchy/{{room_id}}", room_lists.hierarchy),
        # Queries.
        signed("GET", f"{_V1}/query/directory", queries.directory),
        signed("GET", f"{_V1}/query/profile", queries.profile),
        # OpenID.
        Route(method="GET", path=f"{_V1}/openid/userinfo", endpoint=people.user_info),
        # Device management, end-to-end encryption.
        signed("GET", f"{_V1}/user/devices/{{user_id}}", people.devices),
        signed("POST", f"{_V1}/user/keys/claim", people.claim_keys, MAX_KEYS_BODY_BYTES),
        signed("POST", f"{_V1}/user/keys/query", people.query_keys, MAX_KEYS_BODY_BYTES),
        # Content repository.
        signed("GET", f"{_V1}/media/download/{{media_id}}", media.download, scope=Scope.MEDIA),
        signed("GET", f"{_V1}/media/thumbnail/{{media_id}}", media.thumbnail, scope=Scope.MEDIA),
    )
