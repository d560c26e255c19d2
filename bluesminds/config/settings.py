"""Every setting: name, type, default and unit. Times are seconds or text like "1h30m", sizes are bytes.

gateway.toml has exactly this structure. The description of a type completes the error "NAME must be ...".
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bluesminds.common.alerts import AlertKind, ChannelKind
from bluesminds.common.redaction import RedactionName
from bluesminds.common.routes import FALLBACK_ON, FallbackReason, Need, Policy, Prefill, Recovery
from bluesminds.common.values import ServerMode
from bluesminds.config.values import Secret

DAY: Final = 86_400.0
YEAR: Final = 366 * DAY

Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]+\Z", description="text on one line")]
Host = Annotated[str, Meta(pattern=r"^[^\s\x00-\x1f\x7f]+\Z", description="an address or host name")]
Url = Annotated[
    str,
    Meta(min_length=1, description="an http or https URL", examples=["http://127.0.0.1:4000/v1"]),
]
PublicUrl = Annotated[
    str, Meta(min_length=1, description="an http or https URL", examples=["https://ai.example.com"])
]
Seconds = Annotated[
    float, Meta(gt=0, le=DAY, description='seconds above 0, at most 86400, or text like "30s"')
]
Duration = Annotated[
    float,
    Meta(ge=60, le=YEAR, description='seconds from 60 to 31622400 (a year), or text like "7d"'),
]
SecondsOrZero = Annotated[
    float, Meta(ge=0, le=DAY, description='seconds from 0 to 86400, or text like "30s"')
]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
Port = Annotated[int, Meta(ge=0, le=65535, description="a port number from 0 to 65535")]
Count = Annotated[int, Meta(ge=1, le=2**31, description="a whole number, 1 or more")]
CountOrZero = Annotated[int, Meta(ge=0, le=2**31, description="a whole number, 0 or more")]
Size = Annotated[int, Meta(ge=256, le=2**40, description="a number of bytes, 256 or more")]
Days = Annotated[int, Meta(ge=0, le=3650, description="a whole number from 0 to 3650")]
Attempts = Annotated[int, Meta(ge=1, le=20, description="a whole number from 1 to 20")]
Priority = Annotated[int, Meta(ge=-1000, le=1000, description="a whole number from -1000 to 1000")]
Weight = Annotated[int, Meta(ge=1, le=10_000, description="a whole number from 1 to 10000")]
ServerName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9_-][a-z0-9_.-]{0,63}\Z",
        description='1 to 64 of a-z, 0-9, "-", "_" and ".", not starting with "."',
        examples=["main"],
    ),
]
ModelNames = Annotated[
    tuple[Text, ...], Meta(description="a list of model names", examples=[["gpt-5", "gpt-5-mini"]])
]
Region = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z",
        description='1 to 32 of a-z, 0-9, "-" and "_"',
        examples=["eu"],
    ),
]
Tags = Annotated[
    tuple[Region, ...],
    Meta(description='a list of names of a-z, 0-9, "-" and "_"', examples=[["zdr"]], max_length=20),
]
Regions = Annotated[
    tuple[Region, ...],
    Meta(description="a list of regions, the best one first", examples=[["eu"]], max_length=20),
]
RelayPaths = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[a-z0-9_-]+(/[a-z0-9_-]+)*\Z")], ...],
    Meta(description="a list of paths below /v1", examples=[["ocr", "fim/completions"]]),
]
Emails = Annotated[
    tuple[Text, ...], Meta(description="a list of e-mail addresses", examples=[["ada@example.com"]])
]
Email = Annotated[str, Meta(min_length=1, description="an e-mail address", examples=["gateway@example.com"])]
TimeZone = Annotated[Text, Meta(description="the name of a time zone", examples=["Europe/Berlin"])]
Tokens = Annotated[int, Meta(ge=1, le=10_000_000, description="a whole number from 1 to 10000000")]
Percent = Annotated[int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000")]
Day = Annotated[
    str,
    Meta(pattern=r"^20\d\d-\d\d-\d\d\Z", description="a day like 2026-02-28", examples=["2026-02-28"]),
]
TierOfService = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_-]{0,31}\Z", description="the name of a service tier", examples=["priority"]
    ),
]
MONEY: Final = "money"
Usd = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,5}(\.[0-9]{1,9})?\Z",
        description="an amount of USD below 100000, such as 12.5",
        examples=["12.5"],
        extra={MONEY: True},
    ),
]
Shares = Annotated[
    tuple[Annotated[int, Meta(ge=1, le=100)], ...],
    Meta(description="a list of whole numbers from 1 to 100", examples=[[80, 100]], max_length=10),
]
Limit = Annotated[int, Meta(ge=0, le=10**15, description="a whole number, 0 or more")]
Budget = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?\Z",
        description="an amount of USD, such as 12.5",
        examples=["12.5"],
        extra={MONEY: True},
    ),
]
Tier = Literal["free", "starter", "pro", "enterprise"]
PlanName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z",
        description='1 to 32 of a-z, 0-9, "-" and "_"',
        examples=["team"],
    ),
]
Cents = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,2})?\Z",
        description="an amount of USD with at most two decimals, such as 29",
        examples=["29"],
        extra={MONEY: True},
    ),
]
TextLines = Annotated[
    tuple[Text, ...],
    Meta(description="a list of lines", examples=[["Example Ltd", "1 Main Street, Dublin"]], max_length=10),
]
NetworkNames = Annotated[
    tuple[Text, ...],
    Meta(description="a list of IP addresses and networks", examples=[["127.0.0.1", "10.0.0.0/8"]]),
]
OriginNames = Annotated[
    tuple[Text, ...],
    Meta(description='a list of origins, or ["*"]', examples=[["https://app.example.com"]]),
]
# Servers added with the API are mostly local model servers, so private networks are allowed by default.
PRIVATE_NETWORKS = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
    *("::1/128", "fc00::/7"),
)
Dialect = Literal["openai", "azure", "litellm", "anthropic", "gemini", "demo"]
ApiVersion = Annotated[
    str,
    Meta(
        pattern=r"^[0-9A-Za-z.-]{1,40}\Z",
        description="a version of Azure's API",
        examples=["2024-10-21"],
    ),
]
OnDisconnect = Literal["cancel", "drain"]
SecretList = Annotated[
    tuple[Secret, ...],
    Meta(
        description='a list of API keys, each as text, {env="NAME"}, {file="path"} or {cred="name"}',
        examples=[[{"env": "FIRST_KEY"}, {"env": "SECOND_KEY"}]],
        max_length=50,
    ),
]
ServerHeaders = Annotated[
    dict[str, Secret],
    Meta(description="a table of header names and values", examples=[{"X-Title": "Our app"}]),
]
RedactionNames = Annotated[
    tuple[RedactionName, ...],
    Meta(description='a list of "email", "card" and "key"', examples=[["email", "card", "key"]]),
]
RedactionPatterns = Annotated[
    tuple[Text, ...],
    Meta(description="a list of regular expressions", examples=[["EMP-[0-9]{6}"]], max_length=50),
]
# The rows of bluesminds/providers/vendors.py, those without a common URL, and those without a list of models.
VendorName = Literal[
    "openai",
    "anthropic",
    "azure",
    "openrouter",
    "portkey",
    "featherless",
    "chutes",
    "groq",
    "together",
    "fireworks",
    "mistral",
    "deepseek",
    "xai",
    "cerebras",
    "perplexity",
    "cohere",
    "gemini",
    "gemini-openai",
    "github",
    "nvidia",
    "litellm",
    "ollama",
    "vllm",
    "sglang",
    "llama.cpp",
    "lmstudio",
    "tgi",
]
VENDORS_WITHOUT_URL: Final = ("azure",)
VENDORS_WITHOUT_MODEL_LIST: Final = ("azure", "perplexity")


class ListenSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[server]: the listener and limits of what clients may send."""

    host: Host = "127.0.0.1"
    port: Port = 3000
    public_url: PublicUrl | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    http2: bool = False
    trusted_proxies: NetworkNames = ()
    proxy_protocol: bool = False
    watch_config: bool = False
    cors_origins: OriginNames = ()
    max_connections: Count = 10_000
    max_connections_per_ip: CountOrZero = 0
    max_header_bytes: Size = 32_768
    max_header_lines: Count = 128
    max_url_bytes: Size = 8_192
    max_body_bytes: Size = 33_554_432
    max_upload_bytes: Size = 268_435_456
    max_buffered_bytes: Size = 536_870_912
    max_spooled_bytes: Size = 1_073_741_824
    max_body_chunks: Count = 65_536
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 60.0
    write_timeout: Seconds = 60.0
    idle_timeout: Seconds = 75.0
    handshake_timeout: Seconds = 10.0
    drain_timeout: Seconds = 30.0
    expose_server: bool = True
    public_models: bool = False


class StorageSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[storage]: the database and its timeouts."""

    url: Secret | None = None
    durability: Literal["strict", "relaxed"] = "strict"
    queue_rows: Count = 10_000
    settle_timeout: Seconds = 5.0


class UpstreamSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[upstream]: connections to servers, timeouts, retries and health checks."""

    connect_timeout: Seconds = 5.0
    pool_timeout: Seconds = 5.0
    write_timeout: Seconds = 30.0
    first_token_timeout: Seconds = 30.0
    first_byte_timeout: Seconds = 120.0
    chunk_timeout: Seconds = 60.0
    total_timeout: Seconds = 600.0
    keep_alive_interval: SecondsOrZero = 15.0
    max_connections: Count = 1_000
    max_connections_per_server: Count = 500
    attempts: Attempts = 3
    queue_timeout: SecondsOrZero = 10.0
    queue_size: CountOrZero = 1_000
    queue_size_per_account: Count = 100
    ca_file: Path | None = None
    entra_url: Url | None = None
    allowed_networks: NetworkNames = PRIVATE_NETWORKS
    probe_interval: Seconds = 60.0
    probe_timeout: Seconds = 10.0
    eject_after: Count = 5
    eject_seconds: Seconds = 30.0


class WebSocketSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[websocket]: Realtime sessions."""

    handshake_timeout: Seconds = 10.0
    idle_timeout: Seconds = 300.0
    session_timeout: Seconds = 3_600.0
    ping_interval: Seconds = 20.0
    drain_grace: SecondsOrZero = 10.0
    max_message_bytes: Size = 16_777_216


class KeySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[keys]: storage and caching of API keys."""

    pepper: Secret | None = None
    cache_seconds: SecondsOrZero = 5.0


class AccountSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[accounts]: sign-up policy and lifetimes of sessions and links."""

    signup: Literal["open", "invite", "closed"] = "closed"
    admin_emails: Emails = ()
    default_tier: Tier = "free"
    session_idle: Duration = 7 * DAY
    session_lifetime: Duration = 30 * DAY
    max_sessions: Count = 20
    admin_second_factor: bool = False
    verify_lifetime: Duration = DAY
    reset_lifetime: Duration = 3_600.0
    invite_lifetime: Duration = 7 * DAY


ProviderName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z",
        description='1 to 32 of a-z, 0-9 and "-"',
        examples=["company"],
    ),
]
Names = Annotated[tuple[Text, ...], Meta(description="a list of texts", examples=[["gateway-admins"]])]
Scopes = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[!#-\[\]-~]+\Z")], ...],
    Meta(description="a list of scopes", examples=[["openid", "email", "profile"]], max_length=20),
]
Domains = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+\Z")], ...],
    Meta(description="a list of domains in lower case", examples=[["example.com"]]),
]
ProviderKind = Literal["oidc", "google", "github", "privy"]


class IdentityProviderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[identity.providers]]: a service that users sign in with. `signup` None: as [accounts] says."""

    name: ProviderName
    kind: ProviderKind = "oidc"
    title: Annotated[Text, Meta(examples=["Our company"])] | None = None
    issuer: Annotated[Url, Meta(examples=["https://login.example.com/realms/staff"])] | None = None
    client_id: Annotated[Text, Meta(examples=["bluesminds"])]
    client_secret: Secret | None = None
    scopes: Scopes = ("openid", "email", "profile")
    allowed_domains: Domains = ()
    groups_claim: Text = "groups"
    admin_groups: Names = ()
    signup: Literal["open", "invite", "closed"] | None = None
    link_by_email: bool = True
    trusted_emails: bool = False
    key_file: Path | None = None
    keys_url: Url | None = None


IdentityProviders = Annotated[
    tuple[IdentityProviderSettings, ...],
    Meta(
        description="tables with name, client_id, issuer and more keys: see docs/configure.md",
        examples=[
            [{"name": "google", "kind": "google", "client_id": "ID", "client_secret": {"env": "NAME"}}]
        ],
        max_length=20,
    ),
]


class IdentitySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[identity]: services that users sign in with."""

    providers: IdentityProviders = ()


class DashboardSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[dashboard]: the web pages."""

    enabled: bool = True


class MailSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[mail]: the SMTP server, or Resend. If mail is not `configured`, messages are written to files."""

    backend: Literal["smtp", "resend"] = "smtp"
    host: Annotated[Host, Meta(examples=["smtp.example.com"])] | None = None
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: Email | None = None
    username: Annotated[Text, Meta(examples=["gateway"])] | None = None
    password: Secret | None = None
    ca_file: Path | None = None
    timeout: Seconds = 10.0
    api_key: Secret | None = None
    url: Url = "https://api.resend.com"
    webhook_secret: Secret | None = None
    notifications: bool = True

    @property
    def configured(self) -> bool:
        return self.host is not None or self.backend == "resend"


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[limits]: how limits are counted."""

    time_zone: TimeZone = "UTC"
    default_max_tokens: Tokens = 512
    unpriced: Literal["allow", "refuse"] = "allow"


class ResponseSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[responses]: stored responses. `retention_days` 0: the gateway stores nothing."""

    retention_days: Days = 30
    account_bytes: Size = 1_073_741_824


class ReceiptSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[receipts]: how each request was routed."""

    retention_days: Days = 30


class TracingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tracing]: OpenTelemetry spans. `authorization` is the header of this name for the collector. `sample`
    is the share of the requests without a trace of their client.
    """

    endpoint: Url | None = None
    authorization: Secret | None = None
    service: Text = "bluesminds"
    sample: Share = 1.0


class BackupSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[backup]: scheduled backups into `directory`. `passphrase` encrypts the secrets in a backup."""

    directory: Path | None = None
    every: Duration = DAY
    keep: Count = 7
    passphrase: Secret | None = None


class PromptLogSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[prompt_log]: requests and responses in full. `retention_days` 0: none are kept."""

    default: bool = False
    retention_days: Days = 30
    max_bytes: Size = 65_536
    account_bytes: Size = 268_435_456
    queue_bytes: Size = 33_554_432
    administrators: bool = False
    redact: RedactionNames = ()
    redact_patterns: RedactionPatterns = ()


TierNames = Annotated[tuple[Tier, ...], Meta(description="a list of tiers", examples=[["pro", "enterprise"]])]
VendorUrls = Annotated[
    dict[VendorName, Url],
    Meta(
        description="a table of vendors with their URLs",
        examples=[{"openai": "https://eu.api.openai.com/v1"}],
    ),
]


class VendorKeySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[vendor_keys]: keys of users for vendors. `tiers`: whose accounts may have them; empty for all."""

    enabled: bool = True
    tiers: TierNames = ()
    urls: VendorUrls = {}


class WebhookSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[webhooks]: events for URLs of users and administrators. `allowed_networks`: private networks that the
    URLs may be in.
    """

    enabled: bool = False
    allow_http: bool = False
    allowed_networks: NetworkNames = ()


class NoticeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[notices]: when events about budgets, credit, keys and servers are written."""

    budget_shares: Shares = (80, 100)
    credit_low_usd: Usd = "5"
    key_expiry: Duration = 7 * DAY
    server_down: Seconds = 60.0


AlertName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z",
        description='1 to 64 of a-z, 0-9, "-" and "_"',
        examples=["errors"],
    ),
]
AlertThreshold = Annotated[float, Meta(ge=0, le=1e9, description="a number, 0 or more", examples=[5.0])]
AlertSeconds = Annotated[
    float, Meta(ge=0, le=7 * DAY, description='seconds from 0 to 604800, or text like "1h"')
]
AlertWindow = Annotated[float, Meta(ge=60, le=900, description='seconds from 60 to 900, or text like "5m"')]


class AlertRuleSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[alerts.rules]]: fires if a figure, measured over `window`, is above `above` for `hold`."""

    name: AlertName
    kind: AlertKind
    above: AlertThreshold
    window: AlertWindow = 300.0
    hold: AlertSeconds = 60.0
    quiet: AlertSeconds = 3_600.0
    channels: tuple[Text, ...] = ("mail",)
    server: str = ""


class AlertChannelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[alerts.channels]]: an incoming webhook, which gets the messages of alerts."""

    name: AlertName
    kind: ChannelKind
    url: Secret


AlertRules = Annotated[
    tuple[AlertRuleSettings, ...],
    Meta(
        description="tables with name, kind, above and more keys: see docs/configure.md",
        examples=[[{"name": "errors", "kind": "error_share", "above": 5.0}]],
        max_length=100,
    ),
]
AlertChannels = Annotated[
    tuple[AlertChannelSettings, ...],
    Meta(
        description="tables with name, kind and url: see docs/configure.md",
        examples=[[{"name": "team", "kind": "slack", "url": {"env": "NAME"}}]],
        max_length=20,
    ),
]


class AlertSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[alerts]: messages when a figure of the gateway is too high."""

    rules: AlertRules = ()
    channels: AlertChannels = ()


class UsageSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[usage]: how long usage is kept, in days. 0: forever."""

    log_days: Days = 0
    hour_days: Days = 40
    day_days: Days = 0


class CacheSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[cache]: responses that identical requests share."""

    enabled: bool = False
    share: Literal["key", "account", "all"] = "account"
    ttl: Duration = 300.0
    max_bytes: Size = 67_108_864
    max_response_bytes: Size = 1_048_576


class KeylessSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[keyless]: clients that send their own upstream keys. Limits are per address; 0 is no limit."""

    enabled: bool = False
    rpm: CountOrZero = 20
    tpm: CountOrZero = 40_000
    concurrency: CountOrZero = 4
    tokens_per_day: CountOrZero = 200_000


class TierSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tiers.NAME]: limits of accounts with this tier; 0 is no limit. `shared_usd_per_day` and
    `shared_usd_per_month` are for all of them together.
    """

    rpm: Limit = 0
    tpm: Limit = 0
    concurrency: Limit = 0
    tokens_per_day: Limit = 0
    tokens_per_month: Limit = 0
    usd_per_day: Budget = "0"
    usd_per_month: Budget = "0"
    usd_total: Budget = "0"
    shared_usd_per_day: Budget = "0"
    shared_usd_per_month: Budget = "0"
    markup_percent: Percent = 0


class FreeTier(TierSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tiers.free]"""

    rpm: Limit = 10
    tpm: Limit = 10_000
    tokens_per_day: Limit = 1_000
    tokens_per_month: Limit = 10_000


class StarterTier(TierSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tiers.starter]"""

    rpm: Limit = 60
    tpm: Limit = 100_000
    tokens_per_day: Limit = 20_000
    tokens_per_month: Limit = 500_000


class ProTier(TierSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tiers.pro]"""

    rpm: Limit = 200
    tpm: Limit = 500_000
    tokens_per_day: Limit = 100_000
    tokens_per_month: Limit = 2_000_000


class EnterpriseTier(TierSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tiers.enterprise]"""

    rpm: Limit = 1_000
    tpm: Limit = 2_000_000
    tokens_per_day: Limit = 500_000
    tokens_per_month: Limit = 10_000_000


class Tiers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables [tiers.NAME]."""

    free: FreeTier = FreeTier()
    starter: StarterTier = StarterTier()
    pro: ProTier = ProTier()
    enterprise: EnterpriseTier = EnterpriseTier()


class PriceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[prices]]: USD for a million tokens or characters, an image, a second of audio, or a request. A kind
    of tokens without a rate costs `input_usd` or `output_usd`.
    """

    model: Text
    server: ServerName | None = None
    since: Day | None = None
    until: Day | None = None
    service_tier: TierOfService | None = None
    from_tokens: Tokens | None = None
    input_usd: Usd | None = None
    cached_input_usd: Usd | None = None
    cache_write_usd: Usd | None = None
    cache_write_hour_usd: Usd | None = None
    output_usd: Usd | None = None
    reasoning_usd: Usd | None = None
    audio_input_usd: Usd | None = None
    audio_output_usd: Usd | None = None
    image_input_usd: Usd | None = None
    image_output_usd: Usd | None = None
    image_usd: Usd | None = None
    second_usd: Usd | None = None
    character_usd: Usd | None = None
    request_usd: Usd | None = None
    max_output_tokens: Tokens | None = None


Prices = Annotated[
    tuple[PriceSettings, ...],
    Meta(
        description="tables with model and rates such as input_usd and output_usd",
        examples=[[{"model": "gpt-5", "input_usd": "1.25", "output_usd": "10"}]],
    ),
]


RouteModel = Annotated[
    str,
    Meta(
        pattern=r"^(?:[^\x00-\x1f\x7f*]{1,256}\*?|\*)\Z",
        description='a model name, or a prefix followed by "*"',
        examples=["gpt-5*"],
    ),
]


class TargetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A target of a route. Without `model`, the server gets the client's name of the model."""

    server: ServerName
    model: Text | None = None
    weight: Weight | None = None
    priority: Priority | None = None
    prefill: Prefill | None = None


RouteTargets = Annotated[
    tuple[ServerName | TargetSettings, ...],
    Meta(
        description="a list of server names, or of tables with server, model, weight, priority and prefill",
        examples=[[{"server": "main", "weight": 3}, {"server": "other", "model": "gpt-5-eu"}]],
    ),
]
FallbackReasons = Annotated[
    tuple[FallbackReason, ...],
    Meta(
        description='a list of "error", "limit", "timeout", "context_length" and "content_filter"',
        examples=[["error", "limit"]],
    ),
]


class ConditionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`when` of a route: all conditions must hold."""

    tier: tuple[Tier, ...] = ()
    key_tag: Tags = ()
    region: Tags = ()
    tag: Tags = ()
    needs: tuple[Need, ...] = ()
    prompt_tokens_over: Annotated[int, Meta(ge=0, le=10**9)] | None = None


RouteConditions = Annotated[
    ConditionSettings,
    Meta(
        description="a table with tier, key_tag, region, tag and needs (lists), and prompt_tokens_over",
        examples=[{"tier": ["pro"], "needs": ["tools"]}],
    ),
]


class RouteSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[routes]]: the targets of a model. Without `targets`: every server that offers the model."""

    model: RouteModel
    when: RouteConditions | None = None
    targets: RouteTargets | None = None
    policy: Policy = "priority"
    prefer_regions: Regions = ()
    fallback: ModelNames = ()
    fallback_on: FallbackReasons = FALLBACK_ON
    first_token_timeout: Annotated[Seconds, Meta(examples=[15.0])] | None = None
    chunk_timeout: Annotated[Seconds, Meta(examples=[30.0])] | None = None
    recovery: Recovery = "restart"
    repeat_accepted: bool = True
    queue_timeout: Annotated[SecondsOrZero, Meta(examples=[20.0])] | None = None
    queue_size: Annotated[CountOrZero, Meta(examples=[100])] | None = None
    hedge_after: Annotated[Seconds, Meta(examples=[3.0])] | None = None
    hedge_share: Share = 0.05
    hedge_daily_usd: Budget = "1"
    shadow: ServerName | None = None
    shadow_model: Text | None = None
    shadow_share: Share = 0.05
    shadow_daily_usd: Budget = "1"


Routes = Annotated[
    tuple[RouteSettings, ...],
    Meta(
        description="tables with model, targets, policy, fallback and more keys: see docs/configure.md",
        examples=[[{"model": "gpt-5*", "targets": ["main", "other"]}]],
    ),
]
ServerNames = Annotated[
    tuple[ServerName, ...], Meta(description="the name of a server, or a list of names", examples=["main"])
]
ShortRoutes = Annotated[
    dict[RouteModel, ServerNames],
    Meta(
        description="a table of model names, each with a server or a list of servers",
        examples=[{"llama*": "local", "gpt-4": ["openai", "azure"]}],
    ),
]


class PlanSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[plans]]: a tier with a price. `included_usd`: credit for each period. `overage`: whether accounts may
    buy credit as well. `stripe_price` and `creem_product`: the ids at the payment providers.
    """

    name: PlanName
    title: Annotated[Text, Meta(examples=["Team"])] | None = None
    tier: Tier
    price_usd: Cents = "0"
    period: Literal["month", "year"] = "month"
    included_usd: Cents = "0"
    overage: bool = True
    stripe_price: Annotated[Text, Meta(examples=["price_1Abc"])] | None = None
    creem_product: Annotated[Text, Meta(examples=["prod_abc"])] | None = None


Plans = Annotated[
    tuple[PlanSettings, ...],
    Meta(
        description="tables with name, tier, price_usd and more keys: see docs/billing.md",
        examples=[[{"name": "team", "tier": "pro", "price_usd": "49"}]],
    ),
]


class BillingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[billing]: plans and payments. `grace`: how long an unpaid plan stays in force."""

    enabled: bool = False
    manual: bool = False
    instructions: Annotated[Text, Meta(examples=["Transfer the amount to IBAN ..."])] | None = None
    order_lifetime: Duration = 14 * DAY
    grace: Duration = 7 * DAY
    reminder_interval: Duration = 2 * DAY
    topup_min_usd: Cents = "5"
    topup_max_usd: Cents = "500"
    sync_interval: Duration = DAY
    seller: TextLines = ()
    trial_usd: Cents = "10"
    trial_length: Duration = 3 * DAY
    referrer_usd: Cents = "5"
    referred_usd: Cents = "5"
    referral_min_usd: Cents = "20"
    invoice_prefix: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9/-]{0,20}\Z", description='at most 20 of A-Z, a-z, 0-9, "-" and "/"')
    ] = "INV-"


class StripeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[stripe]: payments with Stripe. Without `webhook_secret`, payments are only polled."""

    api_key: Secret | None = None
    webhook_secret: Secret | None = None
    url: Url = "https://api.stripe.com"


class CreemSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[creem]: payments with Creem. `topup_product`: for credit. `url`: default by the prefix of the key."""

    api_key: Secret | None = None
    webhook_secret: Secret | None = None
    topup_product: Annotated[Text, Meta(examples=["prod_abc"])] | None = None
    url: Annotated[Url, Meta(examples=["https://test-api.creem.io"])] | None = None


class LogSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[log]: messages on standard error, and reports of unexpected errors to a Sentry server."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    requests: bool = True
    sentry_dsn: Secret | None = None


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[servers]]: one upstream. `url` and `dialect` follow from `vendor`, and `dialect` from a vendor's
    `url`. Empty `models`: discover them.
    """

    name: ServerName
    vendor: VendorName | None = None
    dialect: Dialect | None = None
    url: Url | None = None
    api_key: Secret | None = None
    api_keys: SecretList = ()
    api_version: ApiVersion | None = None
    headers: ServerHeaders | None = None
    models: ModelNames = ()
    weight: Weight = 1
    priority: Priority = 0
    keyless: bool = False
    passthrough: bool = False
    passthrough_paths: RelayPaths = ()
    region: Region | None = None
    tags: Tags = ()
    mode: ServerMode = "active"
    max_concurrency: CountOrZero = 0
    rpm: CountOrZero = 0
    connect_timeout: Annotated[Seconds, Meta(examples=[2.0])] | None = None
    first_token_timeout: Annotated[Seconds, Meta(examples=[15.0])] | None = None
    first_byte_timeout: Annotated[Seconds, Meta(examples=[300.0])] | None = None
    chunk_timeout: Annotated[Seconds, Meta(examples=[30.0])] | None = None
    total_timeout: Annotated[Seconds, Meta(examples=[300.0])] | None = None
    on_disconnect: OnDisconnect = "cancel"
    drain_seconds: Annotated[Seconds, Meta(examples=[10.0])] | None = None
    drain_tokens: Annotated[Tokens, Meta(examples=[500])] | None = None


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of gateway.toml, validated."""

    state_dir: Path
    prices: Prices = ()
    routes: Routes = ()
    routes_short: ShortRoutes = {}
    plans: Plans = ()
    server: ListenSettings = ListenSettings()
    storage: StorageSettings = StorageSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    keys: KeySettings = KeySettings()
    accounts: AccountSettings = AccountSettings()
    identity: IdentitySettings = IdentitySettings()
    dashboard: DashboardSettings = DashboardSettings()
    mail: MailSettings = MailSettings()
    limits: LimitSettings = LimitSettings()
    responses: ResponseSettings = ResponseSettings()
    receipts: ReceiptSettings = ReceiptSettings()
    tracing: TracingSettings = TracingSettings()
    prompt_log: PromptLogSettings = PromptLogSettings()
    vendor_keys: VendorKeySettings = VendorKeySettings()
    webhooks: WebhookSettings = WebhookSettings()
    notices: NoticeSettings = NoticeSettings()
    alerts: AlertSettings = AlertSettings()
    usage: UsageSettings = UsageSettings()
    backup: BackupSettings = BackupSettings()
    cache: CacheSettings = CacheSettings()
    keyless: KeylessSettings = KeylessSettings()
    tiers: Tiers = Tiers()
    billing: BillingSettings = BillingSettings()
    stripe: StripeSettings = StripeSettings()
    creem: CreemSettings = CreemSettings()
    log: LogSettings = LogSettings()
    servers: tuple[ServerSettings, ...] = ()

    @property
    def database_url(self) -> Secret:
        """The configured database URL, else the SQLite file in the state directory."""
        return self.storage.url or Secret(f"sqlite:///{self.state_dir.absolute() / 'bluesminds.db'}")
