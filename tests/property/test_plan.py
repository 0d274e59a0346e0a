"""Plans: cells are found by arithmetic, and what is frozen is the same however it was written."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.campaigns.plan import Cell, RunPlan, freeze

TARGET: dict[str, Any] = {
    "model": "m",
    "provider_id": "p",
    "provider": "p",
    "provider_type": "local",
    "base_url": "http://127.0.0.1",
    "provider_key_id": "k",
    "price_version_id": "v",
    "prices": {
        "input_per_million": "1",
        "output_per_million": "1",
        "cached_input_per_million": "1",
        "reasoning_per_million": "1",
        "per_request": "0",
    },
    "timeout_s": 1,
    "requests_per_minute": 0,
    "tokens_per_minute": 0,
}


def facts(sources: list[int], techniques: int, targets: int, repetitions: int) -> dict[str, Any]:
    """A plan with so many rows in each source."""
    return {
        "format": 1,
        "prompts": [
            {
                "messages": [["user", "Say {{ x }}."]],
                "variables": [
                    {
                        "name": "x",
                        "kind": "string",
                        "required": False,
                        "default": "0",
                        "choices": [],
                    }
                ],
                "rows": [{"x": f"{number}/{row}"} for row in range(rows)],
            }
            for number, rows in enumerate(sources)
        ],
        "techniques": [
            {"name": f"t{number}", "steps": [{"technique": "plain", "params": {}}]}
            for number in range(techniques)
        ],
        "targets": [TARGET | {"model_id": str(number)} for number in range(targets)],
        "repetitions": repetitions,
        "scorer": {"kind": "contains", "params": {"text": "x"}, "operands": []},
        "generation": {"output_tokens_max": 5, "temperature": None, "top_p": None, "stop": []},
        "seed": 1,
    }


SIZES = st.tuples(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 5),
)


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES)
def test_cells_are_numbered_without_gap_or_overlap(
    sizes: tuple[list[int], int, int, int],
) -> None:
    """cell() is a bijection between the numbers and the places; each place renders its own row."""
    sources, techniques, targets, repetitions = sizes
    plan = RunPlan(freeze(facts(sources, techniques, targets, repetitions))[0])
    places = [plan.cell(number) for number in range(plan.cells_total)]
    assert [
        ((c.prompt_no * techniques + c.technique_no) * targets + c.target_no) * repetitions
        + c.iteration
        for c in places
    ] == list(range(plan.cells_total))
    assert len({tuple(place)[1:] for place in places}) == plan.cells_total
    assert plan.prompt_count == sum(max(1, rows) for rows in sources)
    last = Cell(
        plan.cells_total - 1,
        plan.prompt_count - 1,
        techniques - 1,
        targets - 1,
        repetitions - 1,
    )
    assert places[-1] == last
    asked = [plan.prompt(number).text for number in range(plan.prompt_count)]
    expected = [
        f"Say {f'{number}/{row}' if rows else '0'}."
        for number, rows in enumerate(sources)
        for row in range(max(1, rows))
    ]
    assert asked == expected


def shuffled(value: Any, order: Any) -> Any:
    """The same value with the members of every object in another order."""
    if isinstance(value, dict):
        names = order.draw(st.permutations(list(value)))
        return {name: shuffled(value[name], order) for name in names}
    if isinstance(value, list):
        return [shuffled(item, order) for item in value]
    return value


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES, order=st.data())
def test_freezing_is_canonical(sizes: tuple[list[int], int, int, int], order: Any) -> None:
    """The same facts in any order have the same bytes and hash; other facts have others."""
    plan = facts(*sizes)
    body, plan_hash = freeze(plan)
    assert freeze(shuffled(plan, order)) == (body, plan_hash)
    assert hashlib.sha256(body).hexdigest() == plan_hash
    assert freeze(plan | {"seed": 2})[1] != plan_hash


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, pick=st.integers(0, 10**6))
def test_a_cell_is_prepared_the_same_every_time(
    sizes: tuple[list[int], int, int, int], pick: int
) -> None:
    """From the frozen bytes alone, in another process as in this one."""
    body, _hash = freeze(facts(*sizes))
    one, other = RunPlan(body), RunPlan(body)
    cell_no = pick % one.cells_total
    first, second = one.prepare(cell_no), other.prepare(cell_no)
    assert first.request == second.request
    assert first.worst_cost == second.worst_cost > 0


def with_route(strategy: str, weights: list[int], *, seed: int = 1) -> RunPlan:
    """A plan whose only target is a route over models that are ever dearer."""
    plan = facts([200], 1, 0, 2)
    steps = []
    for number, weight in enumerate(weights):
        prices = TARGET["prices"] | {"per_request": str(number + 1)}
        model = TARGET | {"model_id": str(number), "prices": prices}
        steps.append({"model": model, "weight": weight, "fallback_on": ["timeout"]})
    route = {"route_id": "r", "route": "main", "version_number": 1, "strategy": strategy}
    return RunPlan(freeze(plan | {"targets": [route | {"steps": steps}], "seed": seed})[0])


WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(weights=WEIGHTS, seed=st.integers(-(2**62), 2**62), cell_no=st.integers(0, 399))
def test_a_weighted_order_is_the_same_whoever_asks(
    weights: list[int], seed: int, cell_no: int
) -> None:
    """Every model once, drawn from seed and cell alone; what is held at a step is its own worst cost
    and that of the steps after it, so the whole chain never costs more than its first hold."""
    plan = with_route("weighted", weights, seed=seed)
    order = plan.order(cell_no)
    assert sorted(order) == list(range(len(weights)))
    assert with_route("weighted", weights, seed=seed).order(cell_no) == order
    steps = [plan.prepare(cell_no, step) for step in range(len(order))]
    assert [step.model_no for step in steps] == list(order)
    assert steps[0].worst_cost + steps[0].reserve == sum(step.worst_cost for step in steps)
    assert steps[-1].reserve == 0
    for earlier, later in pairwise(steps):
        assert earlier.reserve == later.worst_cost + later.reserve


def test_the_first_is_drawn_by_weight() -> None:
    """Of 400 cells with weights 3 : 1 about 300 begin with the first, and another seed draws others."""
    orders = [with_route("weighted", [3, 1], seed=seed) for seed in (1, 2)]
    firsts = [[plan.order(cell_no)[0] for cell_no in range(400)] for plan in orders]
    assert 260 <= firsts[0].count(0) <= 340
    assert firsts[0] != firsts[1]


def test_an_ordered_route_keeps_its_order() -> None:
    plan = with_route("ordered", [0, 0, 0])
    assert {plan.order(cell_no) for cell_no in range(400)} == {(0, 1, 2)}
    assert plan.falls_back(0, 1, "timeout")
    assert not plan.falls_back(0, 1, "server_error")
    assert plan.targets[0].name == "route/main"
