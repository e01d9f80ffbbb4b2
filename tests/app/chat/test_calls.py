"""Calls are found in an answer's text, however it is cut into pieces, and what is no call stays text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chat.calls import Call, CallReader, Piece, call_id
from app.chat.dialects import DIALECTS, HERMES, ToolDialect
from app.chat.tools import Toolbox

NAMES = {"add", "look_up"}
ADD = Call("add", '{"a": 2, "b": 3}')
LOOK = Call("look_up", '{"word": "straße </tool_call> [1]; {"}')


def read(dialect: ToolDialect, *texts: str, parallel: bool = True) -> list[Piece]:
    reader = CallReader(dialect, NAMES, parallel=parallel)
    pieces = [piece for text in texts for piece in reader.push(text)] + reader.end()
    return joined(pieces)


def joined(pieces: list[Piece]) -> list[Piece]:
    """Text that stands side by side, as one."""
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("calls", [[ADD], [LOOK], [ADD, LOOK, ADD]], ids=["one", "awkward", "three"])
def test_what_a_dialect_writes_it_reads(dialect: ToolDialect, calls: list[Call]) -> None:
    assert read(dialect, dialect.write(calls)) == calls


CASES = [
    ("hermes", 'Sum: \n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n', ["Sum:", '{"a": 1}']),
    ("hermes", '<tool_call>{"name": "add", "parameters": {}}</tool_call> done ', ["{}", "done "]),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}', ['{"a": 1}']),
    ("hermes", '<tool_call>{"name": "add"}</tool_ca', ["{}"]),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1', None),
    ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', None),
    ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>', None),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', None),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": "\\ud800"}}</tool_call>', None),
    ("hermes", "<tool_call>" + "[" * 100_000 + "</tool_call>", None),
    ("hermes", "1 <tool 2 <", None),
    ("hermes", '<tool_call>{"name" <tool_call>{"name": "add"}</tool_call>', ['<tool_call>{"name"', "{}"]),
    ("hermes", '{"name": "add", "arguments": {}}', None),
    ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "123456789"}]', ['{"a": 1}']),
    ("mistral", '[TOOL_CALLS]add{"a": 1}[TOOL_CALLS]look_up[ARGS]{"word": "x"}', ['{"a": 1}', '{"word": "x"}']),
    ("mistral", 'I will. [TOOL_CALLS]add {"a": 1} So.', ["I will.", '{"a": 1}', "So."]),
    ("mistral", '[TOOL_CALLS][{"name": "add", "arguments": {}}, 1]', None),
    ("mistral", "[TOOL_CALLS] no", None),
    ("mistral", "[TOOL_CALLS][]", None),
    ("llama3", '\n {"name": "add", "parameters": {"a": 1}}', ['{"a": 1}']),
    ("llama3", '<|python_tag|>{"name": "add", "parameters": {"a": 1}}', ['{"a": 1}']),
    ("llama3", '{"name": "add", "parameters": {}}; {"name": "look_up", "parameters": {}} ok', ["{}", "{}", "ok"]),
    ("llama3", '{"name": "add", "parameters": {}}; {"name": "oth', ["{}", '; {"name": "oth']),
    ("llama3", 'It is {"name": "add", "parameters": {}}', None),
    ("llama3", '{"answer": 5}', None),
    ("llama3", '{"name": "add", "parameters": {"a": 1', None),
]


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_an_answer_is_text_and_calls_in_order(name: str, text: str, expected: list[str] | None) -> None:
    pieces = read(DIALECTS[name], text)
    shown = [piece.arguments if isinstance(piece, Call) else piece for piece in pieces]
    assert shown == ([text] if expected is None else expected)
    if expected is None:
        assert all(isinstance(piece, str) for piece in pieces)


def test_calls_beyond_the_first_are_left_out_where_one_is_wanted() -> None:
    for dialect in DIALECTS.values():
        assert read(dialect, dialect.write([ADD, LOOK]), parallel=False) == [ADD]


def test_text_is_given_out_as_soon_as_no_call_can_begin_in_it() -> None:
    reader = CallReader(HERMES, NAMES)
    assert reader.push("It is 5 <") == ["It is 5"]
    assert reader.push("6. ") == [" <6."]
    assert reader.push("\n<tool_") == []
    assert reader.push("call>") == []
    assert reader.end() == [" \n<tool_call>"]


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "add", ";", " ", "\n", "x", "1"),
        *("{", "}", "[", "]", ",", '"', ADD.arguments, LOOK.arguments, '{"name": "add", "arguments": {}}'),
        *(dialect.write(calls) for dialect in DIALECTS.values() for calls in ([ADD], [ADD, LOOK])),
    ]
)


@given(st.sampled_from([*DIALECTS.values()]), st.lists(FRAGMENTS, max_size=8), st.data())
def test_pieces_do_not_matter(dialect: ToolDialect, fragments: list[str], data: st.DataObject) -> None:
    text = "".join(fragments)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    texts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(dialect, text)
    assert read(dialect, *texts) == whole == read(dialect, *text)
    assert all(isinstance(json.loads(piece.arguments), dict) for piece in whole if isinstance(piece, Call))


def test_a_call_is_named_alike_whenever_it_is_read() -> None:
    assert call_id("chatcmpl-1", 0, 0) == call_id("chatcmpl-1", 0, 0)
    assert len({call_id(response, choice, place) for response in "ab" for choice in (0, 1) for place in (0, 1)}) == 8


def test_no_tool_is_offered_where_none_may_be_called() -> None:
    tools = ({"type": "function", "function": {"name": "add"}},)
    assert Toolbox(tools).names == {"add"}
    assert Toolbox(tools, "none").names == frozenset()
