"""More formats the embedded assistant speaks: text generation inference, a format of its own for
mapped providers, and embeddings. Token counts are those of `assistant_wire`.

    POST /generate, /generate_stream, GET /info            text generation inference
    POST /own/chat {"engine", "turns", "limit", "live"}    of its own; GET /own/engines
    POST /v1/embeddings, /own/vectors
    POST /hf-inference/models/<model>/pipeline/feature-extraction
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import orjson

from chimera.embedded.assistant_rules import GUARDS, Conversation
from chimera.embedded.assistant_wire import BadCallError, Call, Result, pieces_of, tokens

VECTOR_LENGTH = 8
TGI_MODEL = "guard-none"
_FEATURES = re.compile(r"/hf-inference/models/([^/]+)/pipeline/feature-extraction")
_TURN = re.compile(r"^(System|User|Assistant): ", re.MULTILINE)


def read_tgi(body: bytes) -> Call:
    """A call of `/generate`: the conversation is read back out of the prompt. Raises BadCallError."""
    document = _object(body)
    prompt, parameters = document.get("inputs"), document.get("parameters", {})
    if not isinstance(prompt, str) or not prompt or not isinstance(parameters, dict):
        raise BadCallError(422, "inputs: a text is required")
    limit = parameters.get("max_new_tokens")
    if parameters.get("temperature") == 0:
        raise BadCallError(422, "temperature: must be above 0")
    parts = _TURN.split(prompt.removesuffix("Assistant:").rstrip())
    if len(parts) == 1:
        system = ""
        turns: tuple[tuple[str, str], ...] = (("user", prompt),)
    else:
        said = list(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=False))
        system = "\n\n".join(text for role, text in said if role == "System")
        turns = tuple((role.lower(), text) for role, text in said if role != "System" and text)
    seed = parameters.get("seed")
    return Call(
        format="tgi",
        model=TGI_MODEL,
        conversation=Conversation(
            system=system,
            turns=turns,
            seed=seed if type(seed) is int else 0,
            wants_json=False,
        ),
        max_tokens=limit if type(limit) is int and limit > 0 else None,
        stop=tuple(parameters.get("stop") or ()),
        stream=False,
        include_usage=parameters.get("details") is True,
    )


def tgi_document(result: Result) -> bytes:
    usage = _shown(result, _tgi_details(result))
    return orjson.dumps({"generated_text": result.text, **({"details": usage} if usage else {})})


def tgi_events(result: Result) -> Iterator[bytes]:
    pieces = pieces_of(result.text)
    for number, piece in enumerate(pieces):
        yield _data({"index": number, "token": _token(piece, special=False)})
    last: dict[str, Any] = {
        "index": len(pieces),
        "token": _token("</s>", special=True),
        "generated_text": result.text,
    }
    details = _shown(result, {**_tgi_details(result), "input_length": result.input_tokens})
    yield _data({**last, "details": details} if details else last)


def _tgi_details(result: Result) -> dict[str, Any]:
    return {
        "finish_reason": "length" if result.finish == "length" else "eos_token",
        "generated_tokens": result.output_tokens,
        "prefill": [{"id": 0, "text": "", "logprob": 0.0}] * result.input_tokens,
    }


def _token(text: str, *, special: bool) -> dict[str, Any]:
    return {"id": 1, "text": text, "logprob": 0.0, "special": special}


def read_own(body: bytes) -> Call:
    """Raises BadCallError."""
    document = _object(body)
    model, turns = document.get("engine"), document.get("turns")
    if model not in GUARDS:
        raise BadCallError(404, "the engine does not exist")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadCallError(400, "turns: a list is required")
    said = [(str(turn.get("role")), str(turn.get("content"))) for turn in turns]
    limit = document.get("limit")
    return Call(
        format="own",
        model=str(model),
        conversation=Conversation(
            system="\n\n".join(text for role, text in said if role == "system"),
            turns=tuple((role, text) for role, text in said if role in ("user", "assistant")),
            seed=0,
            wants_json=False,
        ),
        max_tokens=limit if type(limit) is int and limit > 0 else None,
        stop=(),
        stream=document.get("live") is True,
        include_usage=True,
    )


def own_document(call: Call, result: Result) -> bytes:
    body = {
        "job": result.identifier,
        "engine": call.model,
        "reply": {"text": result.text, "why": _own_word(result)},
    }
    counts = _shown(result, _own_counts(result))
    return orjson.dumps({**body, "counts": counts} if counts else body)


def own_events(result: Result) -> Iterator[bytes]:
    for piece in pieces_of(result.text):
        yield _data({"piece": piece})
    counts = _shown(result, _own_counts(result))
    yield _data({"why": _own_word(result), **({"counts": counts} if counts else {})})
    yield b"data: [END]\n\n"


def _own_word(result: Result) -> str:
    return "limit" if result.finish == "length" else "done"


def _own_counts(result: Result) -> dict[str, Any]:
    return {
        "in": result.input_tokens,
        "out": result.output_tokens,
        "kept": result.cached_tokens,
        "thought": result.reasoning_tokens,
    }


def vectors(path: str, body: bytes) -> tuple[str, bytes]:
    """The model and the answer of an embeddings call. Raises BadCallError."""
    document = _object(body)
    features = _FEATURES.fullmatch(path)
    if features is not None:
        texts = _texts(document.get("inputs"))
        return features[1], orjson.dumps([vector_of(text) for text in texts])
    if path == "/own/vectors":
        texts = _texts(document.get("texts"))
        rows = [{"numbers": vector_of(text)} for text in texts]
        return "own", orjson.dumps({"rows": rows, "in": sum(map(tokens, texts))})
    model = document.get("model")
    if not isinstance(model, str) or model not in GUARDS:
        raise BadCallError(404, "the model does not exist")
    texts = _texts(document.get("input"))
    length = document.get("dimensions") or VECTOR_LENGTH
    data = [
        {"object": "embedding", "index": number, "embedding": vector_of(text)[:length]}
        for number, text in enumerate(texts)
    ]
    read = sum(map(tokens, texts))
    usage = {"prompt_tokens": read, "total_tokens": read}
    # Backwards: the index says where each belongs.
    return model, orjson.dumps(
        {"object": "list", "data": data[::-1], "model": model, "usage": usage}
    )


def vector_of(text: str) -> list[float]:
    """Of length 8, each part between -1 and 1, the same for the same text."""
    digest = hashlib.sha256(text.encode()).digest()
    return [byte / 127.5 - 1 for byte in digest[:VECTOR_LENGTH]]


def takes_vectors(path: str) -> bool:
    return path in ("/v1/embeddings", "/own/vectors") or bool(_FEATURES.fullmatch(path))


def _texts(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise BadCallError(400, "input: texts are required")
    return texts


def _shown(result: Result, usage: dict[str, Any]) -> Any:
    if result.usage is None:
        return usage
    return result.usage or None


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except ValueError:
        raise BadCallError(400, "the body is not JSON") from None
    if not isinstance(document, dict):
        raise BadCallError(400, "the body is not an object")
    return document


def _data(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
