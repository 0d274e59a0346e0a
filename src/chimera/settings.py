"""Settings: one frozen object from the environment (CHIMERA_*), a unit and a default per line.

The three URLs are all that an installation must give; everything else has a default that works.
"""

from __future__ import annotations

from functools import cache
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class SignInProviderSettings(BaseModel):
    """A way to sign in for the whole installation; `issuer` for kind oidc, and for a GitHub
    Enterprise server its address."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern="^[a-z][a-z0-9-]{0,62}$")
    kind: str = Field(pattern="^(google|github|oidc)$")
    issuer: str = ""
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    redirect_uris: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_issuer(self) -> SignInProviderSettings:
        if self.kind == "oidc" and not self.issuer:
            raise ValueError("a provider of kind oidc needs its issuer")
        return self


class Settings(BaseSettings):
    """Everything that differs between installations."""

    model_config = SettingsConfigDict(env_prefix="CHIMERA_", frozen=True, extra="ignore")

    # A login that may take the roles chimera_owner, chimera_app, chimera_worker, chimera_sealer
    # and chimera_auditor. The *_database_url below replace it for single roles in production.
    database_url: SecretStr = SecretStr("")
    app_database_url: SecretStr = SecretStr("")
    worker_database_url: SecretStr = SecretStr("")
    sealer_database_url: SecretStr = SecretStr("")
    upkeep_database_url: SecretStr = SecretStr("")
    # A hot standby that analytics read; its login may take the role chimera_app. Empty: the database.
    replica_database_url: SecretStr = SecretStr("")
    replica_behind_s_max: float = Field(30.0, gt=0)  # further behind it is not read
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    clickhouse_url: SecretStr = SecretStr("")

    # Where the embedded stack, key files and signer state live.
    home: Path = Path(".chimera")
    # production: refuses a local master key file and loopback targets.
    environment: str = Field("development", pattern="^(development|production)$")
    # Empty: a local key file. aws-kms://<region>/<key id, ARN or alias/name>[?endpoint=URL]: a key
    # service; credentials come from where the AWS libraries look for them.
    master_key: str = ""
    master_key_file: Path | None = None  # default: <home>/keys/master.json
    allow_local_master_key: bool = False  # in production
    allow_loopback_targets: bool = True  # forced off in production

    # Networks of this installation's own in which models may be called, such as 10.20.0.0/16. Private
    # addresses are refused otherwise; those of cloud metadata services always are.
    private_target_networks: tuple[str, ...] = ()

    # Server.
    listen: str = "127.0.0.1:8400"
    metrics_listen: str = ""  # host:port for metrics and JWKS, empty for none; +n for process n
    processes: int = Field(1, ge=1, le=64)
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None  # given: clients must show a certificate
    concurrent_rpcs_max: int = 256
    watchers_max: int = 1000
    watchers_per_caller_max: int = 20
    message_bytes_max: int = 8_000_000
    deadline_default_s: float = 15.0
    drain_s: float = 10.0
    trusted_proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For is believed
    reads_per_minute: int = 6000  # per caller and process; writes and logins likewise
    writes_per_minute: int = 1200
    logins_per_minute: int = 60  # per source address, over the whole cluster
    reads_per_org_minute: int = 60_000  # of all callers of an organisation together, per process
    writes_per_org_minute: int = 12_000
    calls_per_peer_second: int = 2000  # before anyone is authenticated
    reflection: bool = True

    # Pools, per process.
    pool_size_min: int = 1
    pool_size_max: int = 10
    pool_waiting_max: int = 200
    pool_timeout_s: float = 2.0
    lock_timeout_ms: int = 1000

    # Identity.
    issuer: str = "chimera"
    access_token_s: int = 300
    refresh_idle_s: int = 14 * 86400
    refresh_absolute_s: int = 90 * 86400
    argon2_memory_kib: int = Field(19456, ge=19456, le=262144)
    argon2_passes: int = Field(2, ge=2, le=10)
    argon2_queue: int = 128
    # Who may make an account: anybody, who was invited, or nobody but through administrators.
    registration: str = Field("invitation", pattern="^(open|invitation|closed)$")
    step_up_s: int = 900  # how old the proof of who is there may be for sensitive calls
    erasure_grace_days: int = Field(30, ge=0, le=365)
    device_days: int = 180  # how long a device stays known without a login
    # Keys that sign access tokens: how old one gets, and how long its successor is published (RPC
    # and /.well-known/jwks.json) before it signs, so that everyone who verifies has it by then.
    signing_key_days: float = Field(30.0, gt=0)
    signing_key_lead_s: float = Field(300.0, ge=0)

    # Signing in elsewhere, a JSON list: [{"name": "google", "kind": "google", "client_id": "...",
    # "client_secret": "...", "redirect_uris": ["https://chimera.example/signed-in"]}]. Kinds: google,
    # github, oidc (with "issuer"). Organisations add their own over the API.
    sign_in_providers: tuple[SignInProviderSettings, ...] = ()

    # Mail: smtp://[user:password@]host:port (STARTTLS when offered), smtps://..., or file:///folder,
    # which writes every mail as a file. Empty: mails wait in the outbox.
    mail_url: SecretStr = SecretStr("")
    mail_from: str = "Chimera <chimera@localhost>"
    # Where people reach the pages that links in mails lead to, such as https://chimera.example.
    public_url: str = "http://127.0.0.1:8400"

    # Webhooks: the first retry comes after so long, each later one four times as late.
    webhook_retry_s: float = 5.0
    webhook_timeout_s: float = 10.0
    webhook_patience_s: float = 5 * 86400  # after so long without a success it is switched off

    # Workers.
    drives_max: int = 8  # runs one worker process drives at a time
    lease_s: float = 15.0
    heartbeat_s: float = 5.0
    turn_s: float = 30.0  # a run keeps its place so long while others wait for one
    cells_max: int = 10_000_000
    response_bytes_max: int = 200_000
    # How long a run waits for a model from which nothing comes back before its cells count as failed.
    circuit_patience_s: float = 900.0
    probe_every_s: int = 60  # how often providers are asked whether they are there; 0: never
    telemetry_flush_s: float = 1.0
    telemetry_reconcile_s: float = 60.0  # how often the store is compared with the buffer
    # The buffer before the column store; beyond, senders are refused.
    telemetry_backlog_bytes_max: int = 2_000_000_000
    telemetry_org_backlog_bytes_max: int = 1_000_000_000
    telemetry_backlog_age_s_max: float = 86_400.0
    telemetry_dead_letters_max: int = 10_000  # of an organisation
    telemetry_dead_letter_bytes_max: int = 256_000_000  # of an organisation
    telemetry_batches_per_minute: int = 60_000  # per caller and process
    telemetry_batches_per_org_minute: int = 240_000
    # Analytics: another ClickHouse to read from (a replica), and what one query may take.
    clickhouse_read_url: SecretStr = SecretStr("")
    telemetry_queries_per_org: int = 3  # at a time, per process
    telemetry_query_s: float = 10.0
    telemetry_query_s_per_org_minute: float = Field(120.0, gt=0)  # of all its queries, per process
    telemetry_query_rows_max: int = 200_000_000  # read
    telemetry_query_bytes_max: int = 1_000_000_000  # of memory
    seal_every_s: float = 1.0

    # Audit log.
    audit_witness_policy: Path | None = None  # c2sp.org/tlog-policy file with the witnesses' URLs
    audit_restore_operators: int = Field(1, ge=1, le=2)  # who answer for a restored backup
    audit_retention_days: int = Field(730, ge=1)  # where an organisation asks for nothing else
    audit_archive: Path | None = None  # of dropped months; default: <home>/audit-archive
    log_level: str = "info"
    log_json: bool = True

    @property
    def is_production(self) -> bool:
        return self.environment == "production"

    @property
    def loopback_allowed(self) -> bool:
        return self.allow_loopback_targets and not self.is_production

    @field_validator("private_target_networks")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)  # ValueError says which
        return networks

    @property
    def key_file(self) -> Path:
        return self.master_key_file or self.home / "keys" / "master.json"

    def role_url(self, role: str) -> str:
        """Connection URL for one of the roles app, worker, sealer, upkeep.

        A URL of its own wins; else the common login takes the role at connection time, which also
        makes it what RESET ROLE goes back to.
        """
        own: SecretStr | None = getattr(self, f"{role}_database_url", None)
        url = own.get_secret_value() if own else ""
        if url:
            return self._with_options(url, "")
        url = self.database_url.get_secret_value()
        if not url:
            raise ValueError("CHIMERA_DATABASE_URL is not set")
        return self._with_options(url, f" -c role=chimera_{role}")

    def replica_url(self) -> str:
        """Connection URL of the role app for reading only; empty where there is no replica."""
        url = self.replica_database_url.get_secret_value()
        more = " -c role=chimera_app -c default_transaction_read_only=on"
        return self._with_options(url, more) if url else ""

    def _with_options(self, url: str, more: str) -> str:
        options = (
            f"-c lock_timeout={self.lock_timeout_ms} -c idle_in_transaction_session_timeout=60000"
            f" -c client_connection_check_interval=1000{more}"  # who has gone is not worked for
        )
        parts = urlsplit(url)
        query = [*parse_qsl(parts.query), ("options", options)]
        return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


@cache
def load_settings() -> Settings:
    """The settings of this process."""
    return Settings()
