"""Templates as their authors meet them: syntax, kinds, bounds, and helpful problems."""

import pytest

from chimera.templates.rendering import (
    RenderError,
    Variable,
    check_template,
    compile_template,
)


def rendered(text, variable=None, **values):
    variables = [] if variable is None else [variable]
    ((role, out),) = compile_template([("user", text)], variables).render(values)
    assert role == "user"
    return out


def reason_of(call, *arguments, **named):
    with pytest.raises(RenderError) as caught:
        call(*arguments, **named)
    return caught.value.reason


X = Variable("x", "string")


@pytest.mark.parametrize(
    ("template", "out"),
    [
        ("a {{x}} b", "a V b"),
        ("{{ x }}{{\tx }}", "VV"),
        ('{"a":{"b":{{x}}}}', '{"a":{"b":V}}'),
        ("{{{x}}}", "{V}"),
        ("{{{{x}}", "{{x}}"),
        ("{{{{{{x}}", "{{V"),
        ("{ x } }} {", "{ x } }} {"),
        ("", ""),
    ],
)
def test_placeholders_and_braces(template, out):
    """JSON around a placeholder means what it looks like; four braces write two."""
    assert rendered(template, X, x="V") == out


@pytest.mark.parametrize(
    "template",
    ["{{", "{{x", "{{x}", "{{x.y.}}", "{{x|shout}}", "{{#if x}}", "{{ 1x }}", "{{x y}}", "{{\nx}}",
     "{{ é }}", "{{" + "x" * 65 + "}}"],
)  # fmt: skip
def test_anything_else_is_a_syntax_error(template):
    """The problem shows its place, also of a section that is never closed."""
    (problem, unused) = check_template(f"ab {template}", [X])
    assert (problem.reason, problem.message_index, problem.position) == ("template_syntax", 0, 3)
    assert unused.reason == "variable_unused"
    assert reason_of(compile_template, [("user", template)], [X]) == "template_syntax"


def test_all_problems_are_listed():
    """An author sees every mistake at once, with message and offset."""
    messages = [("system", "{{ a }} {{b}}"), ("user", "{{c}")]
    variables = [Variable("a", "string"), Variable("d", "enum"), Variable("a", "list")]
    found = [
        (problem.reason, problem.variable, problem.message_index, problem.position)
        for problem in check_template(messages, variables)
    ]
    assert found == [
        ("variable_undeclared", "b", 0, 8),
        ("template_syntax", "", 1, 0),
        ("variable_invalid", "d", -1, -1),
        ("variable_invalid", "a", -1, -1),
        ("variable_unused", "d", -1, -1),
    ]


@pytest.mark.parametrize(
    ("variable", "value", "out"),
    [
        (Variable("x", "string"), "{{x}}", "{{x}}"),
        (Variable("x", "integer"), 3.0, "3"),
        (Variable("x", "integer"), -(2**62), str(-(2**62))),
        (Variable("x", "number"), 2.0, "2"),
        (Variable("x", "number"), -0.0, "0"),
        (Variable("x", "number"), 0.1, "0.1"),
        (Variable("x", "boolean"), True, "true"),
        (Variable("x", "enum", choices=("a", "b")), "b", "b"),
        (Variable("x", "list"), ["a", 1.0, True, 2.5], "a, 1, true, 2.5"),
        (Variable("x", "list"), [], ""),
        (Variable("x", "json"), {"b": [1.0, None], "a": "é"}, '{"a":"é","b":[1,null]}'),
        (Variable("x", "integer", choices=("1", "2")), 2.0, "2"),
        (Variable("x", "string"), None, ""),
        (Variable("x", "integer", default=7.0), None, "7"),
    ],
)
def test_values_are_written_canonically(variable, value, out):
    """Equal values give equal text, whichever number type carried them."""
    assert rendered("{{x}}", variable, x=value) == out


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        (Variable("x", "string", required=True), None, "variable_missing"),
        (Variable("x", "string"), 1, "variable_ill_typed"),
        (Variable("x", "string"), "\ud800", "variable_ill_typed"),
        (Variable("x", "string", minimum=2), "a", "variable_out_of_range"),
        (Variable("x", "string", maximum=2), "abc", "variable_out_of_range"),
        (Variable("x", "integer"), 1.5, "variable_ill_typed"),
        (Variable("x", "integer"), True, "variable_ill_typed"),
        (Variable("x", "integer"), 2**63, "variable_out_of_range"),
        pytest.param(Variable("x", "integer"), 2**20_000, "variable_out_of_range", id="vast"),
        (Variable("x", "integer", minimum=1, maximum=3), 4, "variable_out_of_range"),
        (Variable("x", "number"), float("nan"), "variable_out_of_range"),
        (Variable("x", "number"), "1", "variable_ill_typed"),
        (Variable("x", "boolean"), 1, "variable_ill_typed"),
        (Variable("x", "enum", choices=("a",)), "b", "variable_out_of_range"),
        (Variable("x", "list", maximum=1), ["a", "b"], "variable_out_of_range"),
        (Variable("x", "list", choices=("a",)), ["a", "b"], "variable_out_of_range"),
        (Variable("x", "list"), [["a"]], "variable_ill_typed"),
        (Variable("x", "list"), "abc", "variable_ill_typed"),
        (Variable("x", "json"), {1: 2}, "variable_ill_typed"),
        (Variable("x", "json"), object(), "variable_ill_typed"),
        (Variable("x", "json"), float("inf"), "variable_out_of_range"),
    ],
)
def test_values_outside_their_declaration_are_refused(variable, value, reason):
    """With a typed reason, and before anything is sent."""
    template = compile_template([("user", "{{x}}")], [variable])
    with pytest.raises(RenderError) as caught:
        template.render({} if value is None else {"x": value})
    assert (caught.value.reason, caught.value.variable) == (reason, "x")


def test_json_nested_without_end_is_refused():
    """Neither a deep value nor one that contains itself overruns the stack."""
    loop: list[object] = []
    loop.append(loop)
    template = compile_template([("user", "{{x}}")], [Variable("x", "json")])
    assert reason_of(template.render, {"x": loop}) == "variable_out_of_range"


def test_undeclared_names_are_refused_on_both_sides():
    """A placeholder without declaration at compile time, a value without one at render time."""
    assert reason_of(compile_template, [("user", "{{y}}")], [X]) == "variable_undeclared"
    template = compile_template([("user", "{{x}}")], [X])
    assert reason_of(template.render, {"y": "1"}) == "variable_unknown"


def test_output_is_bounded_over_all_messages():
    """Neither one large value nor many uses of a small one get past the bound."""
    template = compile_template([("system", "{{x}}"), ("user", "{{x}}" * 9)], [X], 100)
    assert len(template.render({"x": "a" * 10})) == 2
    assert reason_of(template.render, {"x": "a" * 11}) == "output_too_large"
    wide = compile_template([("user", "{{x}}" * 20_000)], [X])
    assert reason_of(wide.render, {"x": "a" * 190_000}) == "output_too_large"


def test_secrets_stay_out_of_errors_and_repr():
    """A value is never repeated, not even when it is the reason of the refusal."""
    secret = Variable("x", "string", default="hunter2-default", secret=True, maximum=20)
    assert "hunter2" not in repr(secret)
    template = compile_template([("user", "{{x}}")], [secret])
    for value in ("hunter2" * 10, "hunter2\ud800", {"hunter2": 1}):
        with pytest.raises(RenderError) as caught:
            template.render({"x": value})
        assert "hunter2" not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_scorers_get_the_same_texts():
    """`texts` are the values as written, defaults included; `fill` puts them in."""
    template = compile_template(
        [("user", "{{a}}-{{b}}")], [Variable("a", "integer"), Variable("b", "string", default="d")]
    )
    texts = template.texts({"a": 4.0})
    assert texts == {"a": "4", "b": "d"}
    assert template.fill(texts, {"a": 4.0}) == [("user", "4-d")]
    assert template.names == {"a", "b"}
