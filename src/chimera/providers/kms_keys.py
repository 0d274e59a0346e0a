"""A master key in a key management service that speaks the AWS KMS protocol.

The key never leaves the service: data keys are made (GenerateDataKey), wrapped (Encrypt), opened
(Decrypt) and moved to another key (ReEncrypt) there. The place a data key belongs to travels as
encryption context, so the service itself refuses it anywhere else, and its log shows every use.

What must stay true:

* Opened data keys are kept for FRESH_S, and for at most KEPT_S while the service does not answer:
  what was used lately goes on during an outage, and a key taken away ends everything by then.
* Which versions there are is in the database (ops.master_keys), read again every few seconds; a
  version this process has not heard of yet opens what it wrapped all the same.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

from chimera.providers.vault import (
    KEY_BYTES,
    CannotOpenError,
    KeyState,
    KeyVersionUnusableError,
    MasterKeyAwayError,
    MasterKeyDescription,
    MasterKeyRefusedError,
    UnknownKeyVersionError,
    VaultError,
)

FRESH_S = 300.0
KEPT_S = 3600.0
KEPT_MAX = 10_000
CONNECT_S, ANSWER_S, TRIES = 2, 5, 2

# The service's answers that will not be otherwise in a minute.
_FORGED = ("InvalidCiphertextException", "IncorrectKeyException")
_UNUSABLE = ("DisabledException", "KMSInvalidStateException", "NotFoundException")
_REFUSED = ("AccessDeniedException", "AccessDenied", "UnrecognizedClientException")


@dataclass(frozen=True, slots=True)
class KeyService:
    """Where the service is, and the key to begin with. `endpoint` is empty for AWS itself."""

    region: str
    key_ref: str
    endpoint: str = ""


def key_service_of(url: str) -> KeyService:
    """Reads `aws-kms://<region>/<key id, ARN or alias/name>[?endpoint=http://host:port]`.

    Raises MasterKeyRefusedError.
    """
    parts = urlsplit(url)
    key_ref = unquote(parts.path.removeprefix("/"))
    endpoint = parse_qs(parts.query).get("endpoint", [""])[0]
    if parts.scheme != "aws-kms" or not parts.netloc or not key_ref:
        raise MasterKeyRefusedError(
            "CHIMERA_MASTER_KEY must be empty or like aws-kms://eu-central-1/alias/chimera"
        )
    return KeyService(parts.netloc, key_ref, endpoint)


@dataclass(frozen=True, slots=True)
class KmsVersion:
    """A version of the master key: which key of the service it is."""

    version: int
    key_ref: str
    state: KeyState


@dataclass(slots=True)
class _Opened:
    data_key: bytes = field(repr=False)
    at: float


class KmsKeys:
    """`MasterKeys` over the service. Safe for threads; versions are put in by `use`."""

    kind = "aws_kms"

    def __init__(self, service: KeyService, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.service = service
        self._clock = clock
        self._lock = threading.Lock()
        self._client: Any = None
        self._versions: dict[int, KmsVersion] = {}
        self._opened: OrderedDict[bytes, _Opened] = OrderedDict()

    def __repr__(self) -> str:
        return f"KmsKeys({self.service.region}, {sorted(self._versions)})"

    def use(self, versions: list[KmsVersion]) -> None:
        """Goes by these versions from now on."""
        self._versions = {version.version: version for version in versions}

    def describe(self) -> MasterKeyDescription:
        """See MasterKeys."""
        versions = self._versions
        enabled = [v.version for v in versions.values() if v.state == "enabled"]
        if not enabled:
            raise MasterKeyRefusedError("the master key has no enabled version")
        return MasterKeyDescription(
            kind=self.kind,
            production_grade=True,
            write_version=max(enabled),
            states={version.version: version.state for version in versions.values()},
        )

    def new_data_key(self, *, version: int, aad: bytes) -> tuple[bytes, bytes]:
        """GenerateDataKey."""
        answer = self._ask(
            "generate_data_key",
            KeyId=self._writable(version),
            KeySpec="AES_256",
            EncryptionContext=_context(aad),
        )
        data_key, wrapped = answer["Plaintext"], answer["CiphertextBlob"]
        self._keep(wrapped, aad, data_key)
        return data_key, wrapped

    def wrap(self, data_key: bytes, *, version: int, aad: bytes) -> bytes:
        """Encrypt."""
        answer = self._ask(
            "encrypt",
            KeyId=self._writable(version),
            Plaintext=data_key,
            EncryptionContext=_context(aad),
        )
        wrapped: bytes = answer["CiphertextBlob"]
        return wrapped

    def unwrap(self, wrapped: bytes, *, version: int, aad: bytes) -> bytes:
        """Decrypt, or what it said lately."""
        self._check_readable(version)
        name = _name(wrapped, aad)
        kept = self._opened.get(name)
        now = self._clock()
        if kept is not None and now - kept.at < FRESH_S:
            return kept.data_key
        try:
            answer = self._ask("decrypt", CiphertextBlob=wrapped, EncryptionContext=_context(aad))
        except MasterKeyAwayError:
            if kept is not None and now - kept.at < KEPT_S:
                return kept.data_key
            raise
        except VaultError:
            with self._lock:
                self._opened.pop(name, None)
            raise
        data_key: bytes = answer["Plaintext"]
        if len(data_key) != KEY_BYTES:
            raise CannotOpenError("the wrapped data key has another length")
        self._keep(wrapped, aad, data_key)
        return data_key

    def rewrap(
        self, wrapped: bytes, *, version: int, aad: bytes, new_version: int, new_aad: bytes
    ) -> bytes:
        """ReEncrypt: the data key stays inside the service."""
        self._check_readable(version)
        answer = self._ask(
            "re_encrypt",
            CiphertextBlob=wrapped,
            SourceEncryptionContext=_context(aad),
            DestinationKeyId=self._writable(new_version),
            DestinationEncryptionContext=_context(new_aad),
        )
        moved: bytes = answer["CiphertextBlob"]
        return moved

    def probe(self, key_ref: str) -> str:
        """Wraps and opens something with a key, before it becomes a version; answers its full name.

        Raises VaultError.
        """
        place = _context(b"probe")
        answer = self._ask(
            "generate_data_key", KeyId=key_ref, KeySpec="AES_256", EncryptionContext=place
        )
        opened = self._ask(
            "decrypt", CiphertextBlob=answer["CiphertextBlob"], EncryptionContext=place
        )
        if opened["Plaintext"] != answer["Plaintext"]:
            raise MasterKeyRefusedError("the key service does not open what it wrapped")
        full: str = answer["KeyId"]
        return full

    def _writable(self, version: int) -> str:
        entry = self._versions.get(version)
        if entry is None:
            raise UnknownKeyVersionError(f"the master key has no version {version}")
        if entry.state != "enabled":
            raise KeyVersionUnusableError(f"key version {version} is {entry.state}")
        return entry.key_ref

    def _check_readable(self, version: int) -> None:
        entry = self._versions.get(version)
        if entry is not None and entry.state in ("disabled", "destroyed"):
            raise KeyVersionUnusableError(f"key version {version} is {entry.state}")

    def _keep(self, wrapped: bytes, aad: bytes, data_key: bytes) -> None:
        with self._lock:
            name = _name(wrapped, aad)
            self._opened[name] = _Opened(data_key, self._clock())
            self._opened.move_to_end(name)
            while len(self._opened) > KEPT_MAX:
                self._opened.popitem(last=False)

    def _ask(self, operation: str, **given: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._connected(), operation)(**given)
        except ClientError as error:
            _refuse(error)
        except BotoCoreError:
            raise MasterKeyAwayError("the key service cannot be reached") from None

    def _connected(self) -> Any:
        """The client, made once; it is safe for threads, its making is not."""
        with self._lock:
            if self._client is None:
                try:
                    import botocore.session
                    from botocore.config import Config
                except ImportError:
                    raise MasterKeyRefusedError(
                        "the key service needs more libraries: pip install 'chimera[kms]'"
                    ) from None
                config = Config(
                    connect_timeout=CONNECT_S,
                    read_timeout=ANSWER_S,
                    retries={"total_max_attempts": TRIES, "mode": "standard"},
                    max_pool_connections=20,
                )
                self._client = botocore.session.get_session().create_client(
                    "kms",
                    region_name=self.service.region,
                    endpoint_url=self.service.endpoint or None,
                    config=config,
                )
            return self._client


def _refuse(error: Any) -> NoReturn:
    """What an answer of the service means. Its prose stays out: it names keys and people."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _FORGED:
        raise CannotOpenError("the wrapped data key does not open in this place") from None
    if code in _UNUSABLE:
        raise KeyVersionUnusableError("the key service has disabled this key") from None
    if code in _REFUSED:
        raise MasterKeyRefusedError("the key service does not let us use this key") from None
    raise MasterKeyAwayError(f"the key service failed ({code[:64]})") from None


def _context(aad: bytes) -> dict[str, str]:
    """What a data key is bound to, short enough for the service and its log."""
    return {"chimera": hashlib.sha256(aad).hexdigest()}


def _name(wrapped: bytes, aad: bytes) -> bytes:
    return hashlib.sha256(len(aad).to_bytes(4, "big") + aad + wrapped).digest()
