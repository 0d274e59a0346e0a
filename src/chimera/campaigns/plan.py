"""The frozen plan of a run: everything that is needed to send and score any cell again.

Stored as canonical JSON (sorted keys); its SHA-256 is the run's plan_hash, so an outsider can check
what was run. A cell is found by arithmetic:

    cell_no = ((prompt_no * techniques + technique_no) * targets + target_no) * repetitions + iteration

With a strategy or a judge a cell is a conversation (conversations/): `talk` says what is asked next,
and attackers and judges have seats, whose models follow those of the targets. The plan of a run that
judges the stored answers of another one is that one's, with the other scorer; its targets are never
asked.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

from chimera.campaigns.borrowed import BorrowedRows
from chimera.campaigns.conversations.judgement import Judgement
from chimera.campaigns.conversations.strategies import Strategy, read_strategy
from chimera.campaigns.conversations.talk import MASK, Talk
from chimera.campaigns.conversations.turns import Ask, Turn
from chimera.campaigns.scorers import Judge, Panel, compile_scorer, judges_of
from chimera.campaigns.techniques import Chain, Step, TechniqueError, compile_chain
from chimera.providers.adapters import ChatRequest, Message
from chimera.providers.pricing import Prices, prices_from_json, upper_bound_tokens, worst_cost
from chimera.row_seals import Seals
from chimera.templates.rendering import Template, compile_template
from chimera.templates.values import RenderError, Variable

__all__ = [
    "MASK",
    "BorrowedRows",
    "Cell",
    "Model",
    "Prepared",
    "Prompt",
    "RunPlan",
    "Seat",
    "Target",
    "freeze",
    "row_count",
]

PROMPTS_KEPT = 512


class Cell(NamedTuple):
    """Where a cell stands in the plan; all numbers from 0."""

    cell_no: int
    prompt_no: int
    technique_no: int
    target_no: int
    iteration: int


# Of attackers and judges: what their provider takes by itself, for some take nothing else.
PLAIN_GENERATION: Mapping[str, Any] = {"temperature": None, "top_p": None, "stop": ()}


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
    """A cell ready to be sent; of a conversation, its next call (`ask`) after the turns before."""

    cell: Cell
    prompt: Prompt
    transformed: str
    request: ChatRequest
    worst_cost: Decimal
    worst_tokens: int  # in and out, as far as a call may go
    model_no: int = 0
    reserve: Decimal = Decimal(0)  # what the models its route has left may cost after this one
    ask: Ask | None = None
    before: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Model:
    """A model as the run uses it."""

    model_id: str
    model: str
    provider_id: str
    provider: str
    provider_type: str
    base_url: str
    provider_key_id: str  # empty: without one
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


@dataclass(frozen=True)
class Seat:
    """An attacker or a judge. path: of a judge, its place in the scorer. cost_max: over the run."""

    seat_no: int
    purpose: str
    target: Target
    path: str
    cost_max: Decimal | None


def row_count(source: Mapping[str, Any]) -> int:
    """How many prompts a frozen source makes."""
    return source["dataset"]["row_count"] if "dataset" in source else len(source["rows"]) or 1


def freeze(facts: Mapping[str, Any]) -> tuple[bytes, str]:
    """Canonical bytes of a plan's facts, and their SHA-256 in hex."""
    body = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
    return body, hashlib.sha256(body).hexdigest()


class RunPlan:
    """A plan, compiled. Safe to share between the drives of a process. seals: of its organisation;
    without them prompts of rows with sealed values cannot be made."""

    def __init__(self, body: bytes, seals: Seals | None = None) -> None:
        facts = orjson.loads(body)
        self.sources = facts["prompts"]
        self.templates: list[Template] = [_template(source) for source in self.sources]
        self.rows: list[Sequence[dict[str, Any]]] = [
            _rows(source, seals) for source in self.sources
        ]
        self.borrows = any(isinstance(rows, BorrowedRows) for rows in self.rows)
        self.starts = [0, *accumulate(len(rows) for rows in self.rows)]
        self.technique_names: list[str] = [chain["name"] for chain in facts["techniques"]]
        self.chains: list[Chain] = [
            compile_chain([Step(step["technique"], step["params"]) for step in chain["steps"]])
            for chain in facts["techniques"]
        ]
        self.models: list[Model] = []
        self.targets = [self._target(target) for target in facts["targets"]]
        self.target_models = len(self.models)
        self.seats = [
            self._seat(number, seat) for number, seat in enumerate(facts.get("seats", ()))
        ]
        # By model_no, whose it is.
        self.owners: list[Target] = [
            target
            for target in [*self.targets, *(seat.target for seat in self.seats)]
            for _ in target.model_nos
        ]
        self.has_routes = any(target.is_route for target in self.owners)
        self.repetitions: int = facts["repetitions"]
        self.judge: Judge = compile_scorer(facts["scorer"])
        self.seed: int = facts["seed"]
        self.generation: dict[str, Any] = facts["generation"]
        self.talk: Talk | None = None
        if "judged" in facts:
            self.talk = Judgement(self, Panel(facts["scorer"]), facts["judged"]["run_id"])
        elif "strategy" in facts or self.seats:
            strategy = read_strategy(facts.get("strategy"))
            panel = Panel(facts["scorer"]) if judges_of(facts["scorer"]) else None
            self.talk = Talk(self, strategy, panel)
            self.scripts = [_script(source, strategy) for source in self.sources]
        self.prompt = lru_cache(PROMPTS_KEPT)(self._prompt)
        self.shown_prompt = lru_cache(PROMPTS_KEPT)(self._shown_prompt)
        self.transformed = lru_cache(PROMPTS_KEPT)(self._transformed)

    @property
    def judges_stored(self) -> bool:
        """Whether the answers are another run's, and only judges are asked."""
        return isinstance(self.talk, Judgement)

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

    def _seat(self, seat_no: int, facts: dict[str, Any]) -> Seat:
        cost_max = Decimal(facts["cost_usd_max"]) if facts["cost_usd_max"] else None
        target = self._target(facts["target"])
        return Seat(seat_no, facts["purpose"], target, facts["path"], cost_max)

    def seat_of(self, model_no: int) -> int:
        """Whose seat a model is at; of a target's model, none: LookupError."""
        return next(s.seat_no for s in self.seats if model_no in s.target.model_nos)

    def seat_by_path(self, path: str) -> Seat:
        """The judge at this place of the scorer."""
        return next(seat for seat in self.seats if seat.purpose == "judge" and seat.path == path)

    def asked(self, cell_no: int, seat: int | None) -> Target:
        """Whom a call of a cell goes to: its own target, or who sits there."""
        if seat is None:
            return self.targets[self.cell(cell_no).target_no]
        return self.seats[seat].target

    def order(self, cell_no: int, seat: int | None = None) -> tuple[int, ...]:
        """The models a cell tries, first to last. Of a weighted route it is drawn by weight, from
        the seed and the cell's number alone (Efraimidis and Spirakis, Information Processing
        Letters 97 (2006), 181)."""
        target = self.asked(cell_no, seat)
        if not target.weights:
            return target.model_nos
        drawn = [
            math.log((self.seed_at(f"route/{cell_no}/{step}") + 1) / 2**64) / weight
            for step, weight in enumerate(target.weights)
        ]
        steps = sorted(range(len(drawn)), key=drawn.__getitem__, reverse=True)
        return tuple(target.model_nos[step] for step in steps)

    def falls_back(self, cell_no: int, model_no: int, cause: str) -> bool:
        """Whether the step of this model says that for this cause the next one is tried."""
        target = self.owners[model_no]
        return target.is_route and cause in target.fallbacks[model_no - target.model_nos[0]]

    def place(self, prompt_no: int) -> tuple[int, int]:
        """Which source a prompt comes from, and which of its rows, from 0."""
        source = bisect_right(self.starts, prompt_no) - 1
        return source, prompt_no - self.starts[source]

    def _prompt(self, prompt_no: int) -> Prompt:
        template, row = self._source(prompt_no)
        texts = template.texts(row)
        messages = tuple(template.fill(texts, row))
        return Prompt(messages, subject_of(messages), texts)

    def _transformed(self, prompt_no: int, technique_no: int, iteration: int) -> str:
        """Targets share it: what differs between two targets is never the prompt."""
        seed = self.seed_at(f"{prompt_no}/{technique_no}/{iteration}")
        return self.chains[technique_no].apply(self.prompt(prompt_no).text, seed)

    def masked(self, cell: Cell, *texts: str) -> tuple[str, ...]:
        """What may be kept of a cell whose template has secret variables: its prompt, its transformed
        prompt, and `texts` said about it. The prompt is made again with masks in place of the values,
        so that no technique encodes one; in the texts the values themselves are masked. Empty when
        there is nothing to mask."""
        if not self.templates[self.place(cell.prompt_no)[0]].secrets:
            return ()
        prompt = self.shown_prompt(cell.prompt_no).text
        seed = self.seed_at(f"{cell.prompt_no}/{cell.technique_no}/{cell.iteration}")
        try:
            transformed = self.chains[cell.technique_no].apply(prompt, seed)
        except TechniqueError:
            transformed = MASK
        return (prompt, transformed, *(self.mask(cell.prompt_no, text) for text in texts))

    def mask(self, prompt_no: int, text: str) -> str:
        """A text with a mask for each value of a secret variable."""
        secrets = self.templates[self.place(prompt_no)[0]].secrets
        if secrets:
            variables = self.prompt(prompt_no).variables
            values = sorted(filter(None, (variables[name] for name in secrets)), key=len)
            for value in reversed(values):
                text = text.replace(value, MASK)
        return text

    def unmasked(self, prompt_no: int, text: str) -> str:
        """A masked text as it was, for scorers; with several secret values nobody knows which one a mask
        stands for, and it stays."""
        secrets = self.templates[self.place(prompt_no)[0]].secrets
        if not secrets or MASK not in text:
            return text
        variables = self.prompt(prompt_no).variables
        values = set(filter(None, (variables[name] for name in secrets)))
        return text.replace(MASK, values.pop()) if len(values) == 1 else text

    def _shown_prompt(self, prompt_no: int) -> Prompt:
        """The prompt as it may be kept, and shown to others than its target: made again with masks
        in place of secret values."""
        template, row = self._source(prompt_no)
        prompt = self.prompt(prompt_no)
        if not template.secrets:
            return prompt
        texts, values = self._shown(template, prompt, row)
        try:
            messages = tuple(template.fill(texts, values))
        except RenderError:  # a loop over a secret list, say
            messages = tuple((role, MASK) for role, _text in prompt.messages)
        return Prompt(messages, subject_of(messages), texts)

    def _shown(
        self, template: Template, prompt: Prompt, row: Mapping[str, Any]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        hidden = template.secrets
        texts = {**prompt.variables, **dict.fromkeys(hidden, MASK)}
        return texts, {name: MASK if name in hidden else value for name, value in row.items()}

    def shown_messages(self, cell_no: int) -> list[tuple[str, str]]:
        """The messages of a cell as (role, text), as they were sent but for secret values."""
        cell = self.cell(cell_no)
        masked = self.masked(cell)
        if not masked:
            return [(one.role, one.content) for one in self.prepare(cell_no).request.messages]
        shown = self.shown_prompt(cell.prompt_no)
        return [
            (role, masked[1] if place == shown.subject else text)
            for place, (role, text) in enumerate(shown.messages)
        ]

    def _source(self, prompt_no: int) -> tuple[Template, dict[str, Any]]:
        """Its template, and its row."""
        source, row_no = self.place(prompt_no)
        return self.templates[source], self.rows[source][row_no]

    def holds(self, prompt_no: int) -> bool:
        """Whether a prompt can be made: its row is in the plan, or was brought in."""
        source, row_no = self.place(prompt_no)
        rows = self.rows[source]
        return not isinstance(rows, BorrowedRows) or row_no in rows.kept

    def script(self, prompt_no: int) -> list[str]:
        """The follow-up messages of the strategy, filled in. Raises RenderError."""
        script = self.scripts[self.place(prompt_no)[0]]
        row = self._source(prompt_no)[1]
        return [text for _role, text in script.fill(self.prompt(prompt_no).variables, row)]

    def shown_script(self, prompt_no: int) -> list[str]:
        """The same as they may be kept."""
        template, row = self._source(prompt_no)
        if not template.secrets:
            return self.script(prompt_no)
        script = self.scripts[self.place(prompt_no)[0]]
        texts, values = self._shown(template, self.prompt(prompt_no), row)
        try:
            return [text for _role, text in script.fill(texts, values)]
        except RenderError:
            return [MASK] * len(self.script(prompt_no))

    def seed_at(self, place: str) -> int:
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
            seed=self.seed_at(f"{cell.prompt_no}/{cell.iteration}") & 0x7FFF_FFFF,
            stop=tuple(generation["stop"]),
        )
        bound, worst, reserve = self._worst(messages, generation["output_tokens_max"], order, step)
        return Prepared(cell, prompt, transformed, request, worst, bound, order[step], reserve)

    def prepare_ask(
        self, cell_no: int, ask: Ask, before: tuple[Turn, ...], step: int = 0
    ) -> Prepared:
        """The next call of a conversation, for a step of the order of whom it goes to."""
        cell = self.cell(cell_no)
        order = self.order(cell_no, ask.seat)
        generation = self.generation if ask.seat is None else PLAIN_GENERATION
        request = ChatRequest(
            model=self.models[order[step]].model,
            messages=ask.messages,
            max_tokens=ask.output_tokens_max,
            temperature=generation["temperature"],
            top_p=generation["top_p"],
            seed=ask.seed,
            stop=tuple(generation["stop"]),
        )
        bound, worst, reserve = self._worst(ask.messages, ask.output_tokens_max, order, step)
        prompt = self.prompt(cell.prompt_no)
        model_no = order[step]
        return Prepared(
            cell, prompt, ask.request, request, worst, bound, model_no, reserve, ask, before
        )

    def _worst(
        self, messages: Sequence[Message], output: int, order: Sequence[int], step: int
    ) -> tuple[int, Decimal, Decimal]:
        """What a call can take in tokens, what it can cost, and those its route may make after it."""
        bound = sum(upper_bound_tokens(message.content) for message in messages)
        worst = worst_cost(bound, output, self.models[order[step]].prices)
        later = [worst_cost(bound, output, self.models[no].prices) for no in order[step + 1 :]]
        return bound + output, worst, sum(later, Decimal(0))


def subject_of(messages: Sequence[tuple[str, str]]) -> int:
    """Index of the last user message, or of the last message when the user says nothing."""
    users = [place for place, (role, _text) in enumerate(messages) if role == "user"]
    return users[-1] if users else len(messages) - 1


def _rows(source: Mapping[str, Any], seals: Seals | None) -> Sequence[dict[str, Any]]:
    if "dataset" not in source:
        rows: Sequence[dict[str, Any]] = source["rows"] or [{}]
        return seals.opened(source["template_id"], rows) if seals is not None else rows
    kinds = {variable["name"]: variable["kind"] for variable in source["variables"]}
    return BorrowedRows(source["dataset"], kinds)


def _template(source: Mapping[str, Any]) -> Template:
    return compile_template([(role, text) for role, text in source["messages"]], _variables(source))


def _variables(source: Mapping[str, Any]) -> list[Variable]:
    return [
        Variable(**{**variable, "choices": tuple(variable["choices"])})
        for variable in source["variables"]
    ]


def _script(source: Mapping[str, Any], strategy: Strategy) -> Template:
    """The follow-up messages over the variables of a source. Raises RenderError."""
    return compile_template([("user", text) for text in strategy.messages], _variables(source))


def _model(facts: Mapping[str, Any]) -> Model:
    return Model(**{**facts, "prices": prices_from_json(facts["prices"])})
