"""The frozen plan of a run: everything that is needed to send and score any cell again.

Stored as canonical JSON (sorted keys); its SHA-256 is the run's plan_hash, so an outsider can check
what was run. A cell is found by arithmetic:

    cell_no = ((prompt_no * techniques + technique_no) * targets + target_no) * repetitions + iteration
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

from chimera.campaigns.scorers import Judge, compile_scorer
from chimera.campaigns.techniques import Chain, Step, TechniqueError, compile_chain
from chimera.providers.adapters import ChatRequest, Message
from chimera.providers.pricing import Prices, prices_from_json, upper_bound_tokens, worst_cost
from chimera.templates.rendering import Template, compile_template
from chimera.templates.values import RenderError, Variable

PROMPTS_KEPT = 512
# What stands for a secret value wherever results are kept.
MASK = "[secret]"


class Cell(NamedTuple):
    """Where a cell stands in the plan; all numbers from 0."""

    cell_no: int
    prompt_no: int
    technique_no: int
    target_no: int
    iteration: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt: messages as (role, text), and the variables as text for scorers."""

    messages: tuple[tuple[str, str], ...]
    subject: int  # which message techniques are applied to: the last of the user
    variables: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.messages[self.subject][1]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cell ready to be sent."""

    cell: Cell
    prompt: Prompt
    transformed: str
    request: ChatRequest
    worst_cost: Decimal
    worst_tokens: int  # in and out, as far as a call may go
    model_no: int = 0
    reserve: Decimal = Decimal(0)  # what the models its route has left may cost after this one


@dataclass(frozen=True)
class Model:
    """A model as the run uses it."""

    model_id: str
    model: str
    provider_id: str
    provider: str
    provider_type: str
    base_url: str
    provider_key_id: str
    price_version_id: str
    prices: Prices
    timeout_s: float
    requests_per_minute: int
    tokens_per_minute: int
    provider_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True)
class Target:
    """One column of the plan: a model, or a route over several. model_nos: places in the plan's
    models; fallbacks: per step, the causes for which the next one is tried."""

    name: str
    model_nos: tuple[int, ...]
    weights: tuple[int, ...] = ()  # of a weighted route
    fallbacks: tuple[frozenset[str], ...] = ()

    @property
    def is_route(self) -> bool:
        return bool(self.fallbacks)


class BorrowedRows(Sequence[dict[str, Any]]):
    """The rows of a dataset, which the plan names and does not hold. Only those that were brought in
    can be read; see dataset_rows.py."""

    def __init__(self, facts: Mapping[str, Any], kinds: dict[str, str]) -> None:
        self.dataset_id: str = facts["dataset_id"]
        self.version_number: int = facts["version_number"]
        self.row_count: int = facts["row_count"]
        self.kinds = kinds  # of the template's variables, by name
        self.kept: dict[int, dict[str, Any]] = {}  # by row number, from 0

    def __len__(self) -> int:
        return self.row_count

    def __getitem__(self, row_no: Any) -> Any:
        return self.kept[row_no]

    def keep(self, row_nos: Set[int]) -> None:
        self.kept = {row_no: self.kept[row_no] for row_no in row_nos & self.kept.keys()}


def row_count(source: Mapping[str, Any]) -> int:
    """How many prompts a frozen source makes."""
    return source["dataset"]["row_count"] if "dataset" in source else len(source["rows"]) or 1


def freeze(facts: Mapping[str, Any]) -> tuple[bytes, str]:
    """Canonical bytes of a plan's facts, and their SHA-256 in hex."""
    body = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
    return body, hashlib.sha256(body).hexdigest()


class RunPlan:
    """A plan, compiled. Safe to share between the drives of a process."""

    def __init__(self, body: bytes) -> None:
        facts = orjson.loads(body)
        self.sources = facts["prompts"]
        self.templates: list[Template] = [_template(source) for source in self.sources]
        self.rows: list[Sequence[dict[str, Any]]] = [_rows(source) for source in self.sources]
        self.borrows = any(isinstance(rows, BorrowedRows) for rows in self.rows)
        self.starts = [0, *accumulate(len(rows) for rows in self.rows)]
        self.technique_names: list[str] = [chain["name"] for chain in facts["techniques"]]
        self.chains: list[Chain] = [
            compile_chain([Step(step["technique"], step["params"]) for step in chain["steps"]])
            for chain in facts["techniques"]
        ]
        self.models: list[Model] = []
        self.targets = [self._target(target) for target in facts["targets"]]
        self.has_routes = any(target.is_route for target in self.targets)
        self.repetitions: int = facts["repetitions"]
        self.judge: Judge = compile_scorer(facts["scorer"])
        self.seed: int = facts["seed"]
        self.generation: dict[str, Any] = facts["generation"]
        self.prompt = lru_cache(PROMPTS_KEPT)(self._prompt)
        self.transformed = lru_cache(PROMPTS_KEPT)(self._transformed)

    @property
    def prompt_count(self) -> int:
        return self.starts[-1]

    @property
    def cells_total(self) -> int:
        return self.prompt_count * len(self.chains) * len(self.targets) * self.repetitions

    def cell(self, cell_no: int) -> Cell:
        rest, iteration = divmod(cell_no, self.repetitions)
        rest, target_no = divmod(rest, len(self.targets))
        prompt_no, technique_no = divmod(rest, len(self.chains))
        return Cell(cell_no, prompt_no, technique_no, target_no, iteration)

    def _target(self, facts: dict[str, Any]) -> Target:
        """Adds the models of a frozen target to the plan's."""
        first = len(self.models)
        if "steps" not in facts:
            self.models.append(_model(facts))
            return Target(self.models[first].name, (first,))
        self.models += [_model(step["model"]) for step in facts["steps"]]
        return Target(
            f"route/{facts['route']}",
            tuple(range(first, len(self.models))),
            tuple(s["weight"] for s in facts["steps"]) if facts["strategy"] == "weighted" else (),
            tuple(frozenset(step["fallback_on"]) for step in facts["steps"]),
        )

    def order(self, cell_no: int) -> tuple[int, ...]:
        """The models a cell tries, first to last. Of a weighted route it is drawn by weight, from
        the seed and the cell's number alone (Efraimidis and Spirakis, Information Processing
        Letters 97 (2006), 181)."""
        target = self.targets[self.cell(cell_no).target_no]
        if not target.weights:
            return target.model_nos
        drawn = [
            math.log((self._seed(f"route/{cell_no}/{step}") + 1) / 2**64) / weight
            for step, weight in enumerate(target.weights)
        ]
        steps = sorted(range(len(drawn)), key=drawn.__getitem__, reverse=True)
        return tuple(target.model_nos[step] for step in steps)

    def falls_back(self, cell_no: int, model_no: int, cause: str) -> bool:
        """Whether the step of this model says that for this cause the next one is tried."""
        target = self.targets[self.cell(cell_no).target_no]
        return target.is_route and cause in target.fallbacks[model_no - target.model_nos[0]]

    def place(self, prompt_no: int) -> tuple[int, int]:
        """Which source a prompt comes from, and which of its rows, from 0."""
        source = bisect_right(self.starts, prompt_no) - 1
        return source, prompt_no - self.starts[source]

    def _prompt(self, prompt_no: int) -> Prompt:
        source, row_no = self.place(prompt_no)
        template = self.templates[source]
        row = self.rows[source][row_no]
        texts = template.texts(row)
        messages = tuple(template.fill(texts, row))
        return Prompt(messages, subject_of(messages), texts)

    def _transformed(self, prompt_no: int, technique_no: int, iteration: int) -> str:
        """Targets share it: what differs between two targets is never the prompt."""
        seed = self._seed(f"{prompt_no}/{technique_no}/{iteration}")
        return self.chains[technique_no].apply(self.prompt(prompt_no).text, seed)

    def masked(self, cell: Cell, *texts: str) -> tuple[str, ...]:
        """What may be kept of a cell whose template has secret variables: its prompt, its transformed
        prompt, and `texts` said about it. The prompt is made again with masks in place of the values,
        so that no technique encodes one; in the texts the values themselves are masked. Empty when
        there is nothing to mask."""
        source, _row_no = self.place(cell.prompt_no)
        secrets = self.templates[source].secrets
        if not secrets:
            return ()
        try:
            messages, transformed = self._masked_messages(cell)
            prompt = messages[subject_of(messages)][1]
        except (TechniqueError, RenderError):
            prompt = transformed = MASK  # a loop over a secret list, say
        hidden = {self.prompt(cell.prompt_no).variables[name] for name in secrets} - {""}
        for value in sorted(hidden, key=len, reverse=True):
            texts = tuple(text.replace(value, MASK) for text in texts)
        return (prompt, transformed, *texts)

    def _masked_messages(self, cell: Cell) -> tuple[list[tuple[str, str]], str]:
        """The prompt with masks in place of secret values, and its transformed subject."""
        source, row_no = self.place(cell.prompt_no)
        template = self.templates[source]
        variables = self.prompt(cell.prompt_no).variables
        row = self.rows[source][row_no]
        messages = template.fill(
            {**variables, **dict.fromkeys(template.secrets, MASK)},
            {name: MASK if name in template.secrets else value for name, value in row.items()},
        )
        seed = self._seed(f"{cell.prompt_no}/{cell.technique_no}/{cell.iteration}")
        subject = messages[subject_of(messages)][1]
        return messages, self.chains[cell.technique_no].apply(subject, seed)

    def shown_messages(self, cell_no: int) -> list[tuple[str, str]]:
        """The messages of a cell as (role, text), as they were sent but for secret values."""
        cell = self.cell(cell_no)
        source, _row_no = self.place(cell.prompt_no)
        if not self.templates[source].secrets:
            return [(one.role, one.content) for one in self.prepare(cell_no).request.messages]
        try:
            messages, transformed = self._masked_messages(cell)
        except (TechniqueError, RenderError):
            return [(role, MASK) for role, _text in self.prompt(cell.prompt_no).messages]
        subject = subject_of(messages)
        messages[subject] = (messages[subject][0], transformed)
        return messages

    def _seed(self, place: str) -> int:
        digest = hashlib.sha256(f"{self.seed}/{place}".encode()).digest()
        return int.from_bytes(digest[:8])

    def prepare(self, cell_no: int, step: int = 0) -> Prepared:
        """Renders and transforms a cell for a step of its order. Raises TechniqueError or RenderError when its text cannot
        be made, for example because it grows too large."""
        cell = self.cell(cell_no)
        prompt = self.prompt(cell.prompt_no)
        transformed = self.transformed(cell.prompt_no, cell.technique_no, cell.iteration)
        order = self.order(cell_no)
        model = self.models[order[step]]
        messages = tuple(
            Message(role, transformed if place == prompt.subject else text)
            for place, (role, text) in enumerate(prompt.messages)
        )
        generation = self.generation
        request = ChatRequest(
            model=model.model,
            messages=messages,
            max_tokens=generation["output_tokens_max"],
            temperature=generation["temperature"],
            top_p=generation["top_p"],
            # 31 bits: what every provider's seed field takes.
            seed=self._seed(f"{cell.prompt_no}/{cell.iteration}") & 0x7FFF_FFFF,
            stop=tuple(generation["stop"]),
        )
        bound = sum(upper_bound_tokens(message.content) for message in messages)
        output = generation["output_tokens_max"]
        worst = worst_cost(bound, output, model.prices)
        later = [worst_cost(bound, output, self.models[no].prices) for no in order[step + 1 :]]
        reserve = sum(later, Decimal(0))
        return Prepared(
            cell, prompt, transformed, request, worst, bound + output, order[step], reserve
        )


def subject_of(messages: Sequence[tuple[str, str]]) -> int:
    """Index of the last user message, or of the last message when the user says nothing."""
    users = [place for place, (role, _text) in enumerate(messages) if role == "user"]
    return users[-1] if users else len(messages) - 1


def _rows(source: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    if "dataset" not in source:
        return source["rows"] or [{}]
    kinds = {variable["name"]: variable["kind"] for variable in source["variables"]}
    return BorrowedRows(source["dataset"], kinds)


def _template(source: Mapping[str, Any]) -> Template:
    variables = [
        Variable(**{**variable, "choices": tuple(variable["choices"])})
        for variable in source["variables"]
    ]
    return compile_template([(role, text) for role, text in source["messages"]], variables)


def _model(facts: Mapping[str, Any]) -> Model:
    return Model(**{**facts, "prices": prices_from_json(facts["prices"])})
