"""What a provider's default configuration may say, and reading it.

{
  "parameters": {"temperature": 0.2},         defaults of the request body; the call's own win
  "headers": {"OpenAI-Project": "proj_1"},    sent along; nothing secret, and none of ours
  "api": "tgi",                               huggingface: text generation instead of chat
  "embeddings": "openai",                     huggingface: instead of feature extraction
  "keyless": true,                            local, custom: who has no key may send without one
  "mapping": {...}                            custom: see `mapped`
}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# What an adapter decides itself, or what carries secrets or frames the message.
_OUR_PARAMETERS = frozenset(
    {"model", "messages", "stream", "stream_options", "system", "inputs", "input", "n"}
)
_OUR_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
        "api-key",
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")

_POINTER = {"type": "string", "maxLength": 200, "pattern": "^(/([^~/]|~[01])*)*$"}
_PATH = {"type": "string", "maxLength": 500, "pattern": "^/[A-Za-z0-9._~/{}:-]*$"}
_COUNTS = {
    name: _POINTER
    for name in ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "parameters": {"type": "object", "maxProperties": 50},
        "headers": {
            "type": "object",
            "maxProperties": 20,
            "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 500},
        },
        "stream": {"type": "boolean"},
        "keyless": {"type": "boolean"},
        "api": {"enum": ["chat", "tgi"]},
        "embeddings": {"enum": ["feature_extraction", "openai"]},
        "mapping": {
            "type": "object",
            "additionalProperties": False,
            "required": ["path", "request", "response"],
            "properties": {
                "path": _PATH,
                "key_header": {"type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$"},
                "key_prefix": {"type": "string", "pattern": "^[ -~]{0,32}$"},
                "request": {"type": "object"},
                "response": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["text"],
                    "properties": {
                        "text": _POINTER,
                        "finish_reason": _POINTER,
                        "model": _POINTER,
                        "id": _POINTER,
                        **_COUNTS,
                    },
                },
                "finish_reasons": {
                    "type": "object",
                    "additionalProperties": {
                        "enum": ["stop", "length", "content_filter", "tool_calls", "other"]
                    },
                },
                "stream": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["request", "text"],
                    "properties": {
                        "path": _PATH,
                        "request": {"type": "object"},
                        "text": _POINTER,
                        "finish_reason": _POINTER,
                        "model": _POINTER,
                        "id": _POINTER,
                        "done": {"type": "string", "maxLength": 100},
                        **_COUNTS,
                    },
                },
                "models": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["path", "list"],
                    "properties": {"path": _PATH, "list": _POINTER, "name": _POINTER},
                },
                "embeddings": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["path", "request", "list"],
                    "properties": {
                        "path": _PATH,
                        "request": {"type": "object"},
                        "list": _POINTER,
                        "vector": _POINTER,
                        "input_tokens": _POINTER,
                    },
                },
            },
        },
    },
}


class ConfigError(ValueError):
    """A configuration that cannot be used: `path` in it, and what is wrong there."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A checked configuration."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    api: str = "chat"
    embeddings: str = "feature_extraction"
    mapping: Mapping[str, Any] | None = None


PLAIN = AdapterConfig()


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_SCHEMA)


def read_config(provider_type: str, document: Mapping[str, Any]) -> AdapterConfig:
    """The configuration in a JSON object. Raises ConfigError."""
    if not document:
        return PLAIN
    error = next(iter(_validator().iter_errors(dict(document))), None)
    if error is not None:
        path = ".".join(str(part) for part in error.absolute_path)
        raise ConfigError(path, error.message[:200])
    for name in ("api", "embeddings"):
        if name in document and provider_type != "huggingface":
            raise ConfigError(name, "is for providers of the type huggingface")
    if "keyless" in document and provider_type not in ("local", "custom"):
        raise ConfigError("keyless", "is for providers of the types local and custom")
    if "mapping" in document and provider_type != "custom":
        raise ConfigError("mapping", "is for providers of the type custom")
    for name in document.get("parameters", ()):
        if name in _OUR_PARAMETERS:
            raise ConfigError(f"parameters.{name}", "is decided by each call")
    for name, value in document.get("headers", {}).items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OUR_HEADERS:
            raise ConfigError(f"headers.{name[:64]}", "cannot be set here")
        if not _HEADER_VALUE.fullmatch(value):
            raise ConfigError(f"headers.{name}", "must be visible ASCII characters")
    mapping = document.get("mapping")
    if mapping is not None and document.get("stream") and "stream" not in mapping:
        raise ConfigError("stream", "needs a mapping for streams")
    if mapping is not None and mapping.get("key_header", "").lower() in (
        _OUR_HEADERS - {"authorization", "x-api-key", "api-key"}
    ):
        raise ConfigError("mapping.key_header", "cannot carry a key")
    return AdapterConfig(
        parameters=dict(document.get("parameters", {})),
        headers=dict(document.get("headers", {})),
        stream=document.get("stream", False),
        api=document.get("api", "chat"),
        embeddings=document.get("embeddings", "feature_extraction"),
        mapping=mapping,
    )
