"""Templates cannot reach out of their sandbox: no Python, bounded work, bounded output, no echo.

The words of the hostile templates are those that break other engines: attributes of Python objects,
format strings, blocks of Jinja and Nunjucks, entities, loops over loops, patterns that backtrack.
"""

from __future__ import annotations

import resource
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.templates import language
from chimera.templates.language import Condition, Loop, Placeholder, SyntaxFault
from chimera.templates.rendering import (
    OUTPUT_CHARS_MAX,
    RenderError,
    Variable,
    check_template,
    compile_template,
)

VARIABLES = [
    Variable("x", "json"),
    Variable("s", "string"),
    Variable("l", "list"),
    Variable("key", "string", secret=True),
]
ESCAPES = (
    "__class__", "__mro__", "__subclasses__", "__globals__", "__init__", "__dict__", "__getitem__",
    "func_globals", "gi_frame", "format", "mro", "keys", "items", "pop", "append", "upper",
    "encode", "self", "config", "request", "cycler", "joiner", "namespace", "lipsum", "env",
)  # fmt: skip
HOSTILE = (
    *(f"{{{{ x.{name} }}}}" for name in ESCAPES),
    *(f"{{{{ s.{name} }}}}" for name in ESCAPES),
    *(f"{{{{ l.{name} }}}}" for name in ESCAPES),
    "{{ x['__class__'] }}", "{{ x[0] }}", "{{ x() }}", "{{ x.y() }}", "{{ 7*7 }}", "{{ 'a'.upper() }}",
    "{{ x|attr('__class__') }}", "{{ x | map(attribute='a') }}", "{{ x !r }}", "{{ x:>1000000000 }}",
    "{% for a in x %}{% endfor %}", "{{#each x}}{{#each x}}", "{{/each}}", "{{#if}}", "{{#with x}}{{/with}}",
    "{{&x}}", "{{{x}}}", "{{> x }}", "{{> ../../etc/passwd }}", "{{> file:///etc/passwd }}", "${x}", "%(x)s",
    "<%= x %>", "#{x}", "{x.__class__}", "{0.__class__}", "%s%n", "&xxe;", "{{@root}}", "{{lookup x 'y'}}",
    "{{constructor.constructor('return process')()}}", "{{ range(10**9) }}",
)  # fmt: skip
FRAGMENT = st.one_of(
    st.sampled_from(HOSTILE),
    st.sampled_from(
        ("{{ x }}", "{{ s | upper }}", "{{ l | join: \"-\" }}", "{{#each l}}", "{{ this }}", "{{/each}}",
         "{{#if s}}", "{{else}}", "{{/if}}", "{{ @index }}", "{{{{", "{{", "}}", "{{ x.a.0 }}", "{{! hm }}")
    ),
    st.text(alphabet="{}#/|.:\"' axs@>!\n", max_size=12),
)  # fmt: skip
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "x": st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(ESCAPES)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(("a", "b", *ESCAPES)), inner, max_size=3),
            ),
            max_leaves=6,
        ),
        "s": st.sampled_from(("", "plain", "{{ key }}", "{{> x }}", "<b>")),
        "l": st.lists(st.sampled_from(("a", "{{ key }}", "1")), max_size=3),
        "key": st.just("canary-in-a-value"),
    },
)
# What a reached Python object would look like.
TRACES = ("<class", "<function", "<built-in", "<bound method", "object at 0x", "<module", "<frame")


@settings(deadline=None, max_examples=300)
@given(st.lists(FRAGMENT, max_size=8).map("".join), VALUES)
def test_whatever_is_written_is_rendered_or_refused(text: str, values: dict[str, Any]) -> None:
    """Nothing but SyntaxFault's problem or RenderError comes out, and no Python object shows. A value
    that looks like a template stays what it is, and only {{ key }} itself brings the secret out."""
    try:
        template = compile_template([("user", text)], VARIABLES)
        ((_role, out),) = template.render(values)
    except RenderError as error:
        assert "canary-in-a-value" not in str(error)
        return
    assert not any(trace in out for trace in TRACES)
    assert len(out) <= OUTPUT_CHARS_MAX
    if "key" not in text:
        assert "canary-in-a-value" not in out


@settings(deadline=None, max_examples=300)
@given(st.lists(FRAGMENT, max_size=8).map("".join))
def test_what_parses_is_written_back_to_the_same_tree(text: str) -> None:
    """Freezing a plan writes expanded trees, so this is what pins a partial's meaning."""
    try:
        tree = language.parse(text)
    except SyntaxFault as fault:
        assert text.startswith("{{", fault.position)
        return
    assert _merged(language.parse(language.write(tree))) == _merged(tree)


def _merged(nodes: Any) -> list[Any]:
    """Neighbouring literals joined, all the way down."""
    merged: list[Any] = []
    for node in nodes:
        if isinstance(node, str) and merged and isinstance(merged[-1], str):
            merged[-1] += node
        elif isinstance(node, Loop):
            merged.append((node.subject, _merged(node.body), _merged(node.otherwise)))
        elif isinstance(node, Condition):
            facts = node.subject, node.negated, node.operator, node.literal
            merged.append((*facts, _merged(node.then), _merged(node.otherwise)))
        else:
            merged.append(node)
    return merged


@pytest.mark.parametrize("name", ESCAPES)
def test_a_path_names_parts_of_json_and_nothing_of_python(name: str) -> None:
    """Of plain values of every kind; a key of that name in the value itself is found."""
    template = compile_template([("user", f"{{{{ x.{name} }}}}")], VARIABLES)
    for value in ({}, [], [1], "text", 7, True, {"a": 1}):
        with pytest.raises(RenderError) as refused:
            template.render({"x": value})
        assert refused.value.reason == "variable_missing"
    assert template.render({"x": {name: "mine"}}) == [("user", "mine")]


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("text", "values", "reason"),
    [
        ("{{#each x}}{{#each x}}{{#each x}}a{{/each}}{{/each}}{{/each}}", {"x": [0] * 1000}, None),
        ("{{#each x}}" * 8 + "." + "{{/each}}" * 8, {"x": list(range(50))}, None),
        ("{{#each x}}{{ s }}{{/each}}", {"x": [0] * 1000, "s": "a" * 10_000}, "output_too_large"),
        ("{{#each x}}{{ x | json }}{{/each}}", {"x": ["a" * 100] * 5000}, None),
        ("{{#each x}}{{ x | length }}{{/each}}", {"x": ["a" * 100] * 50_000}, "render_too_long"),
        ("{{ s | indent: 999999 }}", {"s": "\n" * 100_000}, "output_too_large"),
        ("{{ s }}" * 1000, {"s": "a" * 201}, "output_too_large"),
        ('{{ l | join: "' + "-" * 1000 + '" }}', {"l": ["a"] * 100_000}, "output_too_large"),
    ],
)  # fmt: skip
def test_work_and_output_are_bounded(text: str, values: dict[str, Any], reason: str | None) -> None:
    """In processor time, which no busy machine changes."""
    template = compile_template([("user", text)], VARIABLES)
    before = cpu_s()
    with pytest.raises(RenderError) as refused:
        template.render(values)
    assert refused.value.reason in ([reason] if reason else ["render_too_long", "output_too_large"])
    assert cpu_s() - before < 5


@pytest.mark.parametrize(
    "text",
    [
        "{{#if s}}" * 9 + "{{/if}}" * 9,
        "{{ x" + ".a" * 9 + " }}",
        "{{ s" + " | upper" * 9 + " }}",
        "{{ x" + ".a" * 50_000,
        "{{ s" + " | upper" * 50_000,
        "{{ s |" + " " * 100_000 + "upper",
        '{{ s | default: "' + '\\"' * 50_000,
        "{{#if x ==" + " " * 100_000,
        "{{!" + "a" * 100_000,
        "{{" * 50_001 + "x",
        "{{#each x}}" * 50_000,
    ],
)
def test_hostile_texts_are_refused_in_linear_time(text: str) -> None:
    before = cpu_s()
    assert check_template(text, VARIABLES)[0].reason == "template_syntax"
    assert cpu_s() - before < 3


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*)*x", "((a*)*)*b"])
def test_patterns_that_backtrack_elsewhere_do_not(pattern: str) -> None:
    """RE2: linear in the value, whatever the pattern."""
    variable = Variable("s", "string", pattern=pattern)
    template = compile_template([("user", "{{ s }}")], [variable])
    before = cpu_s()
    with pytest.raises(RenderError) as refused:
        template.render({"s": "a" * 50_000 + "!"})
    assert refused.value.reason == "variable_out_of_range" and "aaa" not in str(refused.value)
    assert cpu_s() - before < 3


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ('{"$ref": "http://127.0.0.1:1/x"}', "keyword"),
        ('{"$ref": "#"}', "keyword"),
        ('{"patternProperties": {"(a+)+$": {}}}', "keyword"),
        ('{"properties": {"a": {"items": {"$dynamicRef": "#x"}}}}', "keyword"),
        ('{"pattern": "(?=a)"}', "RE2"),
        ('{"type": "nonsense"}', "not valid"),
        ('{"allOf": [' * 20 + "{}" + "]}" * 20, "nested"),
        ('{"allOf": [' + "{}," * 600 + "{}]}", "more than 500"),
    ],
)
def test_schemas_that_fetch_recurse_or_backtrack_are_refused(schema: str, said: str) -> None:
    (problem, *_) = check_template("{{ x }}", [Variable("x", "json", json_schema=schema)])
    assert problem.reason == "variable_invalid" and said in problem.message


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ('{"items": {"allOf": [%s{}]}}' % ('{"type": "number"},' * 450), [0] * 50_000),
        ('{"items": {"anyOf": [%s{}]}}' % ('{"const": 1},' * 450), [0] * 50_000),
        ('{"allOf": [%s{}]}' % ('{"pattern": "a+b"},' * 450), "a" * 190_000),
        ('{"items": {"properties": {%s "x": {}}}}' % ('"y": {},' * 3), [{}] * 100_000),
    ],
)
def test_a_schema_and_a_value_together_cost_no_more_than_they_may(schema: str, value: Any) -> None:
    template = compile_template([("user", "{{ x }}")], [Variable("x", "json", json_schema=schema)])
    before = cpu_s()
    with pytest.raises(RenderError) as refused:
        template.render({"x": value})
    assert "takes too long" in refused.value.message
    assert cpu_s() - before < 10


def test_what_a_schema_refuses_is_not_copied_into_every_error() -> None:
    schema = '{{"anyOf": [{}]}}'.format(", ".join(['{"type": "null"}'] * 400))
    variable = Variable("x", "json", json_schema=schema)
    value = ["a" * 1000] * 150
    tracemalloc.start()
    try:
        with pytest.raises(RenderError):
            variable.write(value)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_a_schema_holds_and_repeats_no_value() -> None:
    schema = (
        '{"type":"object","required":["n"],"properties":{"n":{"type":"string","pattern":"^a+$"}}}'
    )
    template = compile_template(
        [("user", "{{ x.n }}")], [Variable("x", "json", json_schema=schema)]
    )
    assert template.render({"x": {"n": "aaa"}}) == [("user", "aaa")]
    for value in ({"n": "canary"}, {"canary": 1}, ["canary"]):
        with pytest.raises(RenderError) as refused:
            template.render({"x": value})
        assert refused.value.reason == "variable_out_of_range"
        assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "values", "out"),
    [
        ("{{#if s}}yes{{else}}no{{/if}}", {"s": ""}, "no"),
        ("{{#if not s}}no{{/if}}", {}, "no"),
        ('{{#if s == "a"}}A{{else}}{{#if s != "b"}}?{{/if}}{{/if}}', {"s": "a"}, "A"),
        ("{{#if x.n == 1}}one{{/if}}", {"x": {"n": 1.0}}, "one"),
        ("{{#if x.n == true}}one{{else}}other{{/if}}", {"x": {"n": 1}}, "other"),
        ("{{#if x.gone.deep}}y{{else}}n{{/if}}", {"x": {}}, "n"),
        ("{{#each l}}{{ @number }}:{{ this }}{{#if not @last}},{{/if}}{{else}}none{{/each}}",
         {"l": ["a", "b"]}, "1:a,2:b"),
        ("{{#each l}}x{{else}}none{{/each}}", {"l": []}, "none"),
        ("{{#each x}}{{ this.n }}{{#each this.l}}{{ this }}{{/each}};{{/each}}",
         {"x": [{"n": 1, "l": [2, 3]}, {"n": 4, "l": []}]}, "123;4;"),
        ("{{ l | first | upper }} {{ l | length }} {{ x | json }}", {"l": ["q"], "x": {"b": 1, "a": 2}},
         'Q 1 {"a":2,"b":1}'),
        ('{{ s | trim | default: "none" }}', {"s": "  "}, "none"),
        ("a{{! a remark }}b", {}, "ab"),
        ("{{ s | truncate: 3 }}", {"s": "abcdef"}, "abc"),
    ],
)  # fmt: skip
def test_the_language_says_what_its_page_says(text: str, values: dict[str, Any], out: str) -> None:
    assert compile_template([("user", text)], VARIABLES).render(values) == [("user", out)]


def test_a_placeholder_keeps_its_place() -> None:
    (_, node) = language.parse("ab {{ x.a | upper }}")
    assert isinstance(node, Placeholder)
    assert (node.position, node.path, node.filters) == (3, ("a",), (("upper", None),))
