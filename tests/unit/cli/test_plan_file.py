"""Reading plan files: what is understood, and what a person is told about a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chimera.cli.failure import WRONG_USE, Failure
from chimera.cli.plan_file import EXAMPLE, read_plan
from chimera.v1.templates_pb2 import MessageRole, VariableKind

PLAN: dict[str, Any] = {
    "name": "n",
    "prompts": [{"user": "{{ ask }}", "rows": [{"ask": "a"}]}],
    "techniques": ["plain"],
    "targets": ["p/m"],
    "scorer": {"kind": "refusal"},
}


def read(tmp_path: Path, plan: Any) -> Any:
    path = tmp_path / "plan.json"
    path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return read_plan(path)


def test_the_example_is_a_plan() -> None:
    """What `campaign example` prints is what the demo runs: 8 x 10 x 5 x 3 cells."""
    plan = read_plan(EXAMPLE)

    rows = sum(len(part.rows) for part in plan.prompts)
    assert (rows, len(plan.techniques), len(plan.targets), plan.repetitions) == (8, 10, 5, 3)
    chain = plan.chains()[-1]
    assert chain.name == "role_play+base64"
    assert [step.technique for step in chain.steps] == ["role_play", "base64"]
    assert plan.scorer.message({}).params["canary"] == "{{secret}}"


def test_variables_are_declared_from_the_rows(tmp_path: Path) -> None:
    """A kind for each column; a column that some rows lack is optional."""
    rows = [
        {"s": "x", "i": 1, "n": 1, "b": True, "l": [1], "mixed": 1},
        {"s": "y", "i": 2, "n": 1.5, "b": False, "l": [], "mixed": "one", "late": "z"},
    ]
    plan = read(tmp_path, PLAN | {"prompts": [{"system": "s", "user": "u", "rows": rows}]})

    found = {
        v.name: (VariableKind.Name(v.kind)[14:], v.required) for v in plan.prompts[0].variables()
    }
    assert found == {
        "s": ("STRING", True),
        "i": ("INTEGER", True),
        "n": ("NUMBER", True),
        "b": ("BOOLEAN", True),
        "l": ("LIST", True),
        "mixed": ("JSON", True),
        "late": ("STRING", False),
    }
    roles = [m.role for m in plan.prompts[0].prompt_messages()]
    assert roles == [MessageRole.MESSAGE_ROLE_SYSTEM, MessageRole.MESSAGE_ROLE_USER]


def test_steps_take_parameters_or_just_a_name(tmp_path: Path) -> None:
    steps = [{"technique": "caesar", "params": {"shift": 5}}, "base64"]
    plan = read(tmp_path, PLAN | {"techniques": [{"name": "c", "steps": steps}]})

    chain = plan.chains()[0]
    assert [step.technique for step in chain.steps] == ["caesar", "base64"]
    assert chain.steps[0].params["shift"] == 5


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (PLAN | {"repetition": 3}, "repetition: Extra inputs are not permitted"),
        (PLAN | {"repetitions": 0}, "repetitions: Input should be greater"),
        (PLAN | {"targets": []}, "targets: List should have at least 1 item"),
        (PLAN | {"prompts": [{"rows": []}]}, "prompts[0]: give template_id, or messages"),
        (
            PLAN | {"prompts": [{"template_id": "x", "user": "u"}]},
            "prompts[0]: give template_id, or title and texts, not both",
        ),
        (PLAN | {"techniques": [{"steps": []}]}, "techniques[0].steps: List should have"),
        ("[]", "the file: Input should be a valid dictionary"),
        ("{", "not a plan file: Expecting property name"),
        ("\x00", "not a plan file"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, plan: Any, told: str) -> None:
    with pytest.raises(Failure) as failed:
        read(tmp_path, plan)

    assert told in str(failed.value)
    assert str(failed.value).startswith(str(tmp_path / "plan.json"))
    assert "\n" not in str(failed.value)
    assert failed.value.exit_code == WRONG_USE


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file"):
        read_plan(tmp_path / "none.yaml")


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    """A plan file may come from anywhere; a tag that would run code is a mistake in the file."""
    path = tmp_path / "plan.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']\n")

    with pytest.raises(Failure, match="could not determine a constructor"):
        read_plan(path)
