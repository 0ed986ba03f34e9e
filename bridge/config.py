"""The settings: one YAML file, overridden by `ISTHMUS_...` environment variables.

`ISTHMUS_SERVER_NAME=...`, nested ones with two underscores: `ISTHMUS_DATABASE__URL=...`. Adapters
have settings of their own (`adapters/*/config.py`); here they are the untouched mapping under the
adapter's name. Parts of the program get plain values by keyword, never this tree.
`config.example.yaml` shows every setting with its default.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from bridge.errors import Misconfigured

Port = Annotated[int, Field(ge=0, lt=65536)]
Positive = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Model = TypeVar("Model", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ListenerSettings(_Section):
    """One port. With both files it speaks HTTPS, without them HTTP for a reverse proxy."""

    host: str = "127.0.0.1"
    port: Port = 8448
    certificate: Path | None = None
    private_key: Path | None = None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key need each other")
        return self


class WebSettings(_Section):
    """What requests of others may cost before anybody has looked at them."""

    connections: Annotated[int, Field(ge=0)] = 0
    """Open at the same time; 0: half of what the process may open, at most 5,000."""
    requests_at_once: Positive = 500
    """One address may send bodies in a quarter of them."""
    reading_bytes: Positive = 256 << 20
    """Of all bodies that are being read at a time."""
    idle_timeout_s: PositiveSeconds = 130.0
    """For a connection without a request, and for a request's header."""
    body_timeout_s: PositiveSeconds = 60.0
    answer_timeout_s: PositiveSeconds = 300.0
    """For an answer to be taken."""


class HealthSettings(_Section):
    """`/_isthmus/live`, `/_isthmus/ready` and, if wanted, `/_isthmus/metrics`, in plain HTTP."""

    host: str = "127.0.0.1"
    port: Port = 8450
    metrics: bool = False


class DatabaseSettings(_Section):
    url: str = ""
    """`sqlite:///path` or `postgresql://...`; empty: a SQLite file in the data folder."""


class BoundSettings(_Section):
    """What the graph of a room may cost. The reasons stand at the same names in `rooms/bounds.py`,
    which is filled from here, and in `config.example.yaml`."""

    waiting_per_origin: Positive = 2_000
    waiting_per_room: Positive = 5_000
    attempts: Positive = 12
    gap_rounds: Positive = 60
    gap_events: Positive = 1_000
    gap_requests: Positive = 200
    gap_state_requests: Annotated[int, Field(ge=0)] = 10
    gap_peers: Positive = 3
    gap_timeout_s: PositiveSeconds = 300.0
    gap_at_once: Positive = 8
    gap_rest: Annotated[int, Field(ge=0)] = 10
    state_events: Positive = 60_000
    join_events: Positive = 200_000
    auth_chain_events: Positive = 10_000
    auth_depth: Positive = 20
    single_events: Positive = 20
    extremities: Annotated[int, Field(ge=1, le=1_000)] = 20
    extremity_states: Annotated[int, Field(ge=2, le=1_000)] = 50
    prev_events: Annotated[int, Field(ge=1, le=20)] = 10
    append_attempts: Positive = 30
    past_events: Annotated[int, Field(ge=0, le=1_000)] = 100
    past_rounds: Annotated[int, Field(ge=0)] = 4
    past_state_requests: Annotated[int, Field(ge=0)] = 5
    past_timeout_s: PositiveSeconds = 10.0
    backfill_events: Annotated[int, Field(ge=1, le=500)] = 100
    missing_events: Annotated[int, Field(ge=1, le=50)] = 50
    walk_events: Positive = 1_000
    snapshot_hops: Annotated[int, Field(ge=1, le=1_000)] = 60
    cached_rooms: Positive = 500
    cached_events: Positive = 5_000
    cached_snapshots: Positive = 1_000


class RoomSettings(_Section):
    versions: tuple[str, ...] = ("12", "11", "10")
    """Versions of new rooms, most wanted first; the next is tried where one is refused."""
    extensible_direct_chats: bool = True
    """Direct chats with a server known to speak room version I.1 use it."""
    bounds: BoundSettings = BoundSettings()


class PortalSettings(_Section):
    """Foreign chats as rooms."""

    on_demand: bool = True
    """Whoever looks up the alias of a foreign chat gets a room of it."""
    listed: bool = False
    """Rooms made for foreign chats are listed for everybody, under the network of their protocol.
    Others are listed when somebody with the power there says so."""
    version: str | None = None
    """Room version of these rooms; none: the first of `rooms.versions`."""
    occupants: Annotated[int, Field(ge=0)] = 200
    """People of a chat who are shown as members while they are in it; others when they speak."""
    absent_after_s: Annotated[int, Field(ge=0)] = 300
    """Who has been gone from the chat for so long is no member any more; clients come and go."""
    unused_after_s: Positive = 900
    """A room that nobody has joined for so long after it was made is given up."""


class NumberTemplate(_Section):
    """Phone numbers with this prefix are users of a Matrix server."""

    prefix: str = ""
    """`+1555`; empty: every number."""
    user: str
    """`@{digits}:example.org`: `{digits}` is the number without its plus sign."""

    @field_validator("user")
    @classmethod
    def _with_digits(cls, value: str) -> str:
        if value.count("{digits}") != 1 or not value.startswith("@") or ":" not in value:
            raise ValueError("write it like @{digits}:example.org")
        return value


class VouchingDomain(_Section):
    """A domain of the chat side that vouches for numbers: `+15551234567@DOMAIN`."""

    domain: str
    prefix: str = ""
    """It vouches for numbers with this prefix; empty: for every number."""


class IdentitySettings(_Section):
    """How phone numbers find people."""

    region: str | None = None
    """Country (`GB`) in which a number without a country code is read; none: it is refused."""
    numbers: tuple[NumberTemplate, ...] = ()
    vouching: tuple[VouchingDomain, ...] = ()

    @field_validator("region")
    @classmethod
    def _country(cls, value: str | None) -> str | None:
        if value is not None and not (len(value) == 2 and value.isascii() and value.isupper()):
            raise ValueError("two capital letters, such as GB")
        return value


class LimitSettings(_Section):
    """What is more is answered with 429 and the time after which to try again."""

    requests_per_s: Positive = 200
    """Of one server; of transactions those with nothing new; so many a second for ever ..."""
    requests_burst: Positive = 2_000
    """... and so many at once."""
    server_events_per_s: Positive = 1_000
    server_events_burst: Positive = 20_000
    room_events_per_s: Positive = 1_000
    room_events_burst: Positive = 20_000
    server_edus_per_s: Positive = 500
    server_edus_burst: Positive = 10_000
    invites_per_server: Positive = 5_000
    """Invites of one server that wait for an answer ..."""
    invites_per_user: Positive = 100
    """... and of these for one of our users."""
    knocks_per_user: Positive = 100
    """Knocks of one of our users that wait for an answer."""


def checked_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        ipaddress.ip_network(network)
    return value


class FederationSettings(_Section):
    certificate_authority: Path | None = None
    """One more authority that may vouch for other Matrix servers, beside the system's."""
    allowed_networks: tuple[str, ...] = ()
    """Private networks that may be reached all the same, such as `127.0.0.0/8`."""
    resolver: str | None = None
    """Address of the DNS resolver (`192.0.2.53` or `192.0.2.53:5353`); none: the system's."""
    notaries: tuple[str, ...] = ()
    """Servers that may vouch for keys of servers that cannot be reached."""
    request_timeout_s: Positive = 60
    retry_max_s: Positive = 3600
    """Longest pause between two attempts to reach a server that is down."""
    presence: bool = True
    """Tell other servers who of our people is there, and take what they tell."""
    limits: LimitSettings = LimitSettings()

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_networks(value)


class ContactSettings(_Section):
    """Whom to write to about this server: `matrix_id`, `email_address` or both."""

    role: str = "m.role.admin"
    matrix_id: str | None = Field(default=None, pattern=r"^@[^:]+:.+$")
    email_address: str | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.matrix_id is None and self.email_address is None:
            raise ValueError("a contact has a matrix_id or an email_address")
        return self


class WellKnownSettings(_Section):
    """What we answer under `/.well-known/matrix/`, where no web server before us does."""

    server: str | None = Field(default=None, pattern=r"^[\]\[A-Za-z0-9.:-]+$")
    """Name and port that other Matrix servers find us at; none: 404, they look elsewhere."""
    contacts: tuple[ContactSettings, ...] = ()
    support_page: str | None = Field(default=None, pattern=r"^https?://")


class PolicySettings(_Section):
    rules: tuple[str, ...] = ()
    """Rules of the house, as one would write them to the bot."""


class MediaSettings(_Section):
    """Files that people send. They stand in the folder `media` of the data folder."""

    max_bytes: Positive = 100 << 20
    """Of one file, of ours or of another server."""
    cache_bytes: Positive = 5 << 30
    """Of all files of other servers; those unused for longest go first."""
    quota_bytes: Positive = 2 << 30
    """Of all files that one person has sent."""
    keep_free_bytes: Annotated[int, Field(ge=0)] = 512 << 20
    """Nothing is stored while the disk has less room than this."""
    public_url: str | None = Field(default=None, pattern=r"^https?://[^/?#]+(/[^?#]*)?$")
    """Where people's clients reach our web server: files of Matrix become links under it for who is
    not on Matrix; none: they are only named."""
    link_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long such a link opens the file."""
    fetch_timeout_s: PositiveSeconds = 120.0
    """For fetching one file that somebody shares; after it the link itself is shown."""
    allowed_networks: tuple[str, ...] = ()
    """Private networks from which files are fetched all the same: anybody may name a URL there."""

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_networks(value)


class DeliverySettings(_Section):
    give_up_after_s: Positive = 3 * 24 * 3600
    """A message that could not become an event for so long is given up, its author told."""
    waiting_notice_s: Positive = 60
    """An author is told after so long that a message waits ..."""
    waiting_again_s: Positive = 24 * 3600
    """... and again after each of these."""
    retry_max_s: Positive = 300
    """Longest pause between two attempts."""
    workers: Positive = 64
    """Chats that are served at the same time, in each direction."""
    keep_done_s: Positive = 30 * 24 * 3600
    """How long finished rows are kept, so that doubles are recognised and bounces explained."""


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix="ISTHMUS_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    server_name: str
    """The Matrix name of this server: what stands behind the colon of its users."""
    data_folder: Path
    signing_key: Path = Path("signing.key")
    """Relative to the data folder, as every path here that is not absolute."""
    bot: str = "isthmus"
    """Localpart of the bot on both networks."""
    listeners: tuple[ListenerSettings, ...] = (ListenerSettings(),)
    web: WebSettings = WebSettings()
    health: HealthSettings = HealthSettings()
    database: DatabaseSettings = DatabaseSettings()
    rooms: RoomSettings = RoomSettings()
    portals: PortalSettings = PortalSettings()
    identity: IdentitySettings = IdentitySettings()
    permissions: dict[str, Literal["none", "user", "admin"]] = Field(default_factory=dict)
    """Who may do what with the bot: a Matrix user, a JID, a server or domain, or `*`; the most
    exact one counts. Who is not named may only do what concerns themselves."""
    federation: FederationSettings = FederationSettings()
    well_known: WellKnownSettings = WellKnownSettings()
    policy: PolicySettings = PolicySettings()
    media: MediaSettings = MediaSettings()
    delivery: DeliverySettings = DeliverySettings()
    log: LogSettings = LogSettings()
    xmpp: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    def path(self, value: Path) -> Path:
        """A path of the settings, seen from the data folder."""
        return value if value.is_absolute() else self.data_folder / value

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{self.data_folder / 'isthmus.db'}"


EXAMPLE_VALUES: Mapping[str, tuple[str, ...]] = {
    "server_name": ("gw.example",),
    "xmpp.domain": ("gw.example",),
    "xmpp.secret": ("change-me",),
}
"""What stands in `config.example.yaml` and cannot be meant."""


def load(path: Path) -> Settings:
    """Reads the file; raises `Misconfigured`, naming the setting and what is wrong with it."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise Misconfigured(str(path), f"cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise Misconfigured(str(path), f"is not YAML: {exc}") from exc
    if not isinstance(data, dict):
        raise Misconfigured(str(path), "holds no settings")
    folder = data.get("data_folder")
    if isinstance(folder, str) and not Path(folder).is_absolute():
        data["data_folder"] = str(path.resolve().parent / folder)
    return read(data)


def read(data: Mapping[str, Any]) -> Settings:
    """Settings from a mapping (and the environment). Raises `Misconfigured`."""
    try:
        settings = Settings(**data)
    except ValidationError as exc:
        raise misconfigured(exc) from exc
    except SettingsError as exc:
        raise Misconfigured("environment", f"{exc}: lists and sections are JSON there") from exc
    refuse_example_values(settings)
    return settings


def validated(model: type[Model], data: Mapping[str, Any], *, prefix: str) -> Model:
    """A part's own settings. Raises `Misconfigured`, naming the setting under `prefix`."""
    try:
        return model(**data)
    except ValidationError as exc:
        raise misconfigured(exc, prefix=prefix) from exc


def misconfigured(exc: ValidationError, *, prefix: str = "") -> Misconfigured:
    """The first complaint, with the dotted name of its setting."""
    first = exc.errors()[0]
    name = ".".join([*([prefix] if prefix else []), *(str(part) for part in first["loc"])])
    return Misconfigured(name or "settings", str(first["msg"]).removeprefix("Value error, "))


def refuse_example_values(settings: Settings) -> None:
    """Raises `Misconfigured` for the first setting that still has its example value."""
    tree = settings.model_dump()
    for name, examples in EXAMPLE_VALUES.items():
        value: Any = tree
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value in examples:
            raise Misconfigured(name, f"still has the example value {value!r}: put in your own")
