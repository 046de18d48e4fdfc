"""Streams of events read into answers, as providers and compatible servers really send them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

import pytest
from anthropic.types import StopReason
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.chat_completion_chunk import Choice

from relight.providers import anthropic_form, openai_form
from relight.providers.faults import Fault, FaultKind
from relight.providers.messages import (
    Stop,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolArguments,
    ToolCall,
    ToolCallStarted,
    Usage,
)
from relight.providers.spec import Api, ProviderSpec
from relight.providers.wire import EventCounter

if TYPE_CHECKING:
    from relight.providers.port import Completed

CLAUDE = ProviderSpec(name="a", api=Api.ANTHROPIC, model="claude-opus-5")
LOCAL = ProviderSpec(name="l", api=Api.COMPATIBLE, model="qwen3", base_url="http://llm/v1")


def read(reader: Any, events: list[dict[str, Any]]) -> tuple[list[Any], Completed]:
    """What is seen on the way, and the whole."""
    deltas = [delta for event in events for delta in reader.feed(event)]
    return deltas, reader.finish()


def fault_of(reader: Any, events: list[dict[str, Any]]) -> Fault:
    """How reading fails."""
    with pytest.raises(Fault) as caught:
        read(reader, events)
    return caught.value


# -- Anthropic


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **piece: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": piece}


def begun(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "model": "claude-opus-5-x", "usage": usage}}


def ended(reason: str | None, sequence: str | None = None, **usage: Any) -> list[dict[str, Any]]:
    stop = {"stop_reason": reason, "stop_sequence": sequence}
    return [{"type": "message_delta", "delta": stop, "usage": usage}, {"type": "message_stop"}]


def test_a_claude_answer_with_thoughts_words_and_parallel_calls() -> None:
    """Blocks come in order, deltas by index, counts of the whole; arguments may be empty."""
    deltas, whole = read(
        anthropic_form.Reader(CLAUDE),
        [
            begun(input_tokens=10, cache_read_input_tokens=5, cache_creation_input_tokens=2, output_tokens=1),
            start(0, type="thinking", thinking="", signature=""),
            delta(0, type="thinking_delta", thinking="Hm"),
            delta(0, type="signature_delta", signature="sig"),
            start(1, type="redacted_thinking", data="xyz"),
            start(2, type="text", text=""),
            delta(2, type="text_delta", text="Let "),
            start(3, type="tool_use", id="toolu_1", name="look", input={}),
            start(4, type="tool_use", id="toolu_2", name="list", input={}),
            delta(3, type="input_json_delta", partial_json='{"at": '),
            delta(2, type="text_delta", text="me."),
            delta(3, type="input_json_delta", partial_json="1}"),
            {"type": "content_block_stop", "index": 3},
            {"type": "something_new"},
            *ended("tool_use", output_tokens=30, output_tokens_details={"thinking_tokens": 7}),
        ],
    )
    assert whole.message.content == (
        Thinking(text="Hm", signature="sig", provider="a", model="claude-opus-5"),
        Thinking(redacted="xyz", provider="a", model="claude-opus-5"),
        Text(text="Let me."),
        ToolCall(id="toolu_1", name="look", arguments={"at": 1}),
        ToolCall(id="toolu_2", name="list", arguments={}),
    )
    assert (whole.stop, whole.model, whole.id) == (Stop.TOOL_CALLS, "claude-opus-5-x", "msg_1")
    assert whole.usage == Usage(input=17, output=30, cache_read=5, cache_written=2, thinking=7)
    assert deltas == [
        ThinkingDelta(text="Hm"),
        TextDelta(text="Let "),
        ToolCallStarted(index=0, id="toolu_1", name="look"),
        ToolCallStarted(index=1, id="toolu_2", name="list"),
        ToolArguments(index=0, json='{"at": '),
        TextDelta(text="me."),
        ToolArguments(index=0, json="1}"),
    ]


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", Stop.END),
        ("max_tokens", Stop.MAX_TOKENS),
        ("stop_sequence", Stop.STOP_SEQUENCE),
        ("refusal", Stop.REFUSAL),
        ("model_context_window_exceeded", Stop.CONTEXT_FULL),
        ("pause_turn", Stop.END),
        ("tool_use", Stop.END),  # there is no call
    ],
)
def test_every_reason_why_claude_stops(reason: str, stop: Stop) -> None:
    """Each is told as what it is."""
    text = [start(0, type="text", text=""), delta(0, type="text_delta", text="Hi")]
    _, whole = read(anthropic_form.Reader(CLAUDE), [begun(), *text, *ended(reason, "END")])
    assert (whole.stop, whole.message.text, whole.stop_sequence) == (stop, "Hi", "END")


def test_a_claude_stream_is_whole_only_with_a_reason_and_message_stop() -> None:
    """fails when a stream without its end is taken for an answer."""
    text = [begun(), start(0, type="text", text="Hi")]
    for events in ([], text, [*text, ended("end_turn")[0]], [*text, {"type": "message_stop"}], [*text, *ended(None)]):
        assert fault_of(anthropic_form.Reader(CLAUDE), events).kind is FaultKind.TRUNCATED


def test_arguments_may_come_whole_with_the_beginning_of_a_call() -> None:
    """fails when the arguments of servers that do not give them in pieces are thrown away, or given twice."""
    first = start(0, type="tool_use", id="t", name="look", input={"at": "\u00e9"})
    stop = {"type": "content_block_stop", "index": 0}
    piece = delta(0, type="input_json_delta", partial_json='{"at": 2}')
    for events, arguments in (
        ([first, stop], {"at": "\u00e9"}),
        ([first], {"at": "\u00e9"}),
        ([first, piece, stop], {"at": 2}),
    ):
        deltas, whole = read(anthropic_form.Reader(CLAUDE), [begun(), *events, *ended("tool_use")])
        assert arguments_of(whole) == [("look", arguments)]
        assert [json.loads(item.json) for item in deltas if isinstance(item, ToolArguments)] == [arguments]


def test_what_follows_message_stop_is_none_of_the_answer() -> None:
    """fails when a server that says everything again is heard twice."""
    text = [begun(), start(0, type="text", text=""), delta(0, type="text_delta", text="Hi"), *ended("end_turn")]
    deltas, whole = read(anthropic_form.Reader(CLAUDE), [*text, *text])
    assert whole.message.content == (Text(text="Hi"),)
    assert deltas == [TextDelta(text="Hi")]


def test_counts_that_the_last_event_leaves_out_stand_as_they_were() -> None:
    """The last event may count the output alone, or all again."""
    text = start(0, type="text", text="Hi")
    first = begun(input_tokens=10, cache_read_input_tokens=5, output_tokens=1)
    _, whole = read(anthropic_form.Reader(CLAUDE), [first, text, *ended("end_turn", output_tokens=9)])
    assert whole.usage == Usage(input=15, output=9, cache_read=5)
    again = ended("end_turn", input_tokens=20, cache_read_input_tokens=6, output_tokens=9)
    _, whole = read(anthropic_form.Reader(CLAUDE), [first, text, *again])
    assert whole.usage == Usage(input=26, output=9, cache_read=6)


# -- what both share


def test_an_answer_without_words_or_calls_is_empty() -> None:
    """Thoughts alone, or white space, are no answer; but tokens that ran out while it thought are told as that."""
    thoughts = [start(0, type="thinking", thinking="Hm", signature="s")]
    for content in ([], thoughts, [start(0, type="text", text=" \n")]):
        events = [begun(), *content, *ended("end_turn")]
        assert fault_of(anthropic_form.Reader(CLAUDE), events).kind is FaultKind.EMPTY
    _, whole = read(anthropic_form.Reader(CLAUDE), [begun(), *thoughts, *ended("max_tokens")])
    assert whole.stop is Stop.MAX_TOKENS


@pytest.mark.parametrize(
    "arguments", ['{"at": ', "[1]", "1", '"a"', "null", '{"a": NaN}', '{"a": [-1e999]}', "{'a': 1}", "[" * 100_000]
)
@pytest.mark.parametrize("reason", ["tool_use", "max_tokens"])
def test_arguments_that_are_no_json_object_break_the_call(arguments: str, reason: str) -> None:
    """fails when half a call is given out; why it is half is told."""
    call = [start(0, type="tool_use", id="t", name="look", input={})]
    call.append(delta(0, type="input_json_delta", partial_json=arguments))
    fault = fault_of(anthropic_form.Reader(CLAUDE), [begun(), *call, *ended(reason)])
    assert fault.kind is FaultKind.BROKEN_CALL
    assert ("the tokens ran out" in fault.detail) == (reason == "max_tokens")
    assert fault.__cause__ is fault.__context__ is None


NAMES = [
    *("type", "index", "delta", "content_block", "message", "usage", "choices", "text", "id", "name", "tool_calls"),
    *("function", "arguments", "content", "finish_reason", "stop_reason", "input_tokens"),
]
scraps = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["text", "tool_use", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
kinds = st.sampled_from(
    ["message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop", "ping"]
)


@given(st.lists(scraps | st.fixed_dictionaries({"type": kinds, "delta": scraps, "content_block": scraps}), max_size=6))
def test_events_of_any_shape_give_an_answer_or_a_fault(events: list[Any]) -> None:
    """fails when a malformed event raises anything that the adapter would not expect of it."""
    for reader in (anthropic_form.Reader(CLAUDE), openai_form.Reader(LOCAL)):
        # Whatever else it raises, the adapter takes for what it is: no event of the format.
        with suppress(Fault, TypeError, AttributeError, ValueError, LookupError):
            read(reader, events)


# -- OpenAI and what is compatible with it


def chunk(reason: str | None = None, usage: dict[str, Any] | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "chatcmpl-1", "model": "qwen3-32b", "choices": [choice], "usage": usage}


def called(index: int | None, id_: str | None = None, name: str | None = None, arguments: Any = "") -> dict[str, Any]:
    function = {key: value for key, value in {"name": name, "arguments": arguments}.items() if value is not None}
    piece: dict[str, Any] = {"function": function}
    if index is not None:
        piece["index"] = index
    if id_ is not None:
        piece["id"] = id_
    return chunk(tool_calls=[piece])


def arguments_of(whole: Completed) -> list[tuple[str, Any]]:
    return [(call.name, dict(call.arguments)) for call in whole.message.tool_calls]


def test_an_openai_answer_with_parallel_calls() -> None:
    """Pieces belong to calls by index, counts come in a last chunk without choices."""
    counts = {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    deltas, whole = read(
        openai_form.Reader(LOCAL),
        [
            chunk(role="assistant", content=""),
            chunk(reasoning_content="Hm"),
            chunk(content="Let me."),
            called(0, "call_1", "look"),
            called(1, "call_2", "list"),
            called(0, arguments='{"at":'),
            called(1, arguments="{}"),
            called(0, arguments=" 1}"),
            chunk("tool_calls"),
            {"id": "chatcmpl-1", "model": "qwen3-32b", "choices": [], "usage": counts},
        ],
    )
    assert whole.message.content == (
        Thinking(text="Hm", provider="l", model="qwen3"),
        Text(text="Let me."),
        ToolCall(id="call_1", name="look", arguments={"at": 1}),
        ToolCall(id="call_2", name="list", arguments={}),
    )
    assert (whole.stop, whole.model, whole.id) == (Stop.TOOL_CALLS, "qwen3-32b", "chatcmpl-1")
    assert whole.usage == Usage(input=10, output=20, cache_read=4, cache_written=3, thinking=5)
    assert [type(item) for item in deltas].count(ToolCallStarted) == 2


def test_calls_of_servers_that_are_less_than_exact() -> None:
    """No index, one index for all, everything in one chunk, `stop` as the reason, arguments as an object, no id."""
    two = [("look", {"a": 1}), ("look", {"a": 2})]
    for events in (
        [called(None, "x", "look", '{"a": 1}'), called(None, "y", "look", '{"a": 2}'), chunk("stop")],
        [called(0, "x", "look", '{"a": 1}'), called(0, "y", "look", '{"a": 2}'), chunk("tool_calls")],
        [called(None, None, "look", '{"a": 1}'), called(None, None, "look", '{"a": 2}'), chunk("stop")],
        [called(None, "x", "look", '{"a"'), called(None, None, None, ": 1}"), called(1, "x", "look", '{"a": 2}')],
        [called(0, "", "look", {"a": 1}), called(1, "", "look", {"a": 2}), chunk("stop")],
        # An id that two calls have, with every piece; an id that comes late.
        [
            *(called(0, "x", "look", '{"a"'), called(0, "x", None, ": 1}")),
            *(called(1, "x", "look", '{"a"'), called(1, "x", None, ": 2}")),
        ],
        [called(0, None, "look", '{"a"'), called(0, "x", None, ": 1}"), called(1, "y", "look", '{"a": 2}')],
        [
            called(0, "x"),
            called(0, None, None, '{"a": '),
            called(0, None, "look", "1}"),
            called(1, "y", "look", {"a": 2}),
        ],
        [
            chunk(
                "stop",
                tool_calls=[
                    {"id": i, "function": {"name": "look", "arguments": {"a": n}}} for i, n in (("p", 1), ("q", 2))
                ],
            )
        ],
    ):
        deltas, whole = read(openai_form.Reader(LOCAL), [*events, chunk("tool_calls")])
        assert arguments_of(whole) == two, events
        assert whole.stop is Stop.TOOL_CALLS
        ids = [call.id for call in whole.message.tool_calls]
        assert len({*ids}) == 2 and all(ids), events
        started = [item for item in deltas if isinstance(item, ToolCallStarted)]
        assert [(item.index, item.id) for item in started] == list(enumerate(ids))
        for index in (0, 1):
            pieces = [item.json for item in deltas if isinstance(item, ToolArguments) and item.index == index]
            assert pieces, events


def test_a_name_that_is_repeated_in_every_piece_is_no_new_call() -> None:
    """Some servers repeat id and name with every piece."""
    events = [called(0, "x", "look", '{"a"'), called(0, "x", "look", ": 1}"), chunk("tool_calls")]
    assert arguments_of(read(openai_form.Reader(LOCAL), events)[1]) == [("look", {"a": 1})]


def test_an_old_function_call_is_a_call() -> None:
    """The deprecated form of calls is still spoken."""
    events = [chunk(function_call={"name": "look", "arguments": '{"a": 1}'}), chunk("function_call")]
    _, whole = read(openai_form.Reader(LOCAL), events)
    assert arguments_of(whole) == [("look", {"a": 1})]
    assert whole.stop is Stop.TOOL_CALLS


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("stop", Stop.END),
        ("length", Stop.MAX_TOKENS),
        ("content_filter", Stop.REFUSAL),
        ("eos", Stop.END),
        ("max_tokens", Stop.MAX_TOKENS),
        ("model_length", Stop.CONTEXT_FULL),
        ("tool_calls", Stop.END),  # there is no call
    ],
)
def test_every_reason_why_an_openai_model_stops(reason: str, stop: Stop) -> None:
    """Each is told as what it is, also in compatible servers' words."""
    _, whole = read(openai_form.Reader(LOCAL), [chunk(content="Hi"), chunk(reason)])
    assert whole.stop is stop
    assert whole.usage == Usage()


def test_every_reason_that_the_sdks_know_is_known() -> None:
    """fails when an SDK grows a reason of which nobody has decided what it means."""
    reasons = {*get_args(StopReason)}
    assert reasons == {*anthropic_form._STOPS}
    found = Choice.model_fields["finish_reason"].annotation
    assert {*get_args(next(kind for kind in get_args(found) if get_args(kind)))} <= {*openai_form._STOPS}


@pytest.mark.parametrize("reason", ["not_known_yet", "sk-live-0123456789", "Half of what you asked: x", "é" * 80])
def test_an_answer_that_ends_for_an_unknown_reason_is_none(reason: str) -> None:
    """fails when what may be half an answer passes for a whole, or when whatever stands for a reason is told."""
    faults = [
        fault_of(anthropic_form.Reader(CLAUDE), [begun(), start(0, type="text", text="Hi"), *ended(reason)]),
        fault_of(openai_form.Reader(LOCAL), [chunk(content="Hi"), chunk(reason)]),
    ]
    for fault in faults:
        assert fault.kind is FaultKind.MALFORMED
        assert (reason in fault.detail) == (reason == "not_known_yet")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("error", FaultKind.SERVER_ERROR),
        ("abort", FaultKind.TRUNCATED),
        ("cancelled", FaultKind.TRUNCATED),
        ("timeout", FaultKind.TRUNCATED),
    ],
)
def test_reasons_that_are_failures(reason: str, kind: FaultKind) -> None:
    """fails when a server's own failure is taken for an answer."""
    assert fault_of(openai_form.Reader(LOCAL), [chunk(content="Hi"), chunk(reason)]).kind is kind


def test_an_openai_stream_without_a_reason_is_truncated() -> None:
    """fails when a stream without its end is taken for an answer, [DONE] or not."""
    assert fault_of(openai_form.Reader(LOCAL), [chunk(content="Hi")]).kind is FaultKind.TRUNCATED
    assert fault_of(openai_form.Reader(LOCAL), []).kind is FaultKind.TRUNCATED


SAYING: list[dict[str, Any]] = [
    {"content": "more"},
    {"refusal": "No."},
    {"reasoning_content": "Hm"},
    {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "look", "arguments": "{}"}}]},
    {"function_call": {"name": "look", "arguments": "{}"}},
]


@pytest.mark.parametrize("more", SAYING, ids=[next(iter(more)) for more in SAYING])
def test_a_reason_before_or_with_what_is_said_is_no_end(more: dict[str, Any]) -> None:
    """fails when half an answer is whole because its server gives a reason too early, or with every chunk."""
    before = openai_form.Reader(LOCAL)
    list(before.feed(chunk(content="Hi")))
    list(before.feed(chunk("stop")))
    assert before.over
    list(before.feed(chunk(**more)))
    assert not before.over
    with pytest.raises(Fault) as caught:
        before.finish()
    assert caught.value.kind is FaultKind.TRUNCATED
    every = openai_form.Reader(LOCAL)
    for piece in (chunk("stop", role="assistant", content=""), chunk("stop", content="Hi"), chunk("stop", **more)):
        list(every.feed(piece))
        assert not every.over
    list(every.feed(chunk("stop")))
    assert not every.over, "a reason of this server means nothing before the stream has ended"
    list(every.feed({"choices": [], "usage": {"prompt_tokens": 1}}))
    assert every.over, "counts in a chunk of their own are the end"
    assert every.counted
    list(every.feed(chunk(**more)))
    assert not every.over


def test_an_empty_reason_is_none() -> None:
    """Some servers give one with every chunk."""
    reader = openai_form.Reader(LOCAL)
    for piece in (chunk("", content="Hi"), chunk("", content="Ho")):
        list(reader.feed(piece))
    list(reader.feed(chunk("stop")))
    assert reader.over
    assert not reader.counted


def test_a_refusal_and_a_stop_sequence_are_told() -> None:
    """A refusal comes in a field of its own; vLLM names the stop sequence."""
    _, whole = read(openai_form.Reader(LOCAL), [chunk(refusal="No."), chunk("stop")])
    assert (whole.stop, whole.message.text) == (Stop.REFUSAL, "No.")
    last = chunk("stop")
    last["choices"][0]["stop_reason"] = "END"
    _, whole = read(openai_form.Reader(LOCAL), [chunk(content="Hi"), last])
    assert (whole.stop, whole.stop_sequence) == (Stop.STOP_SEQUENCE, "END")


def test_an_answer_that_comes_whole_is_read_too() -> None:
    """A server may answer a stream's request with one chunk that holds a message."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    _, whole = read(openai_form.Reader(LOCAL), [{"id": "1", "model": "m", "choices": [choice]}])
    assert whole.message.text == "Hi"


def test_other_choices_are_left_alone() -> None:
    """Only the first answer was asked for."""
    other = chunk(content="Other")
    other["choices"][0]["index"] = 1
    _, whole = read(openai_form.Reader(LOCAL), [chunk(content="Hi"), other, chunk("stop")])
    assert whole.message.text == "Hi"


def test_what_was_read_can_be_sent_again() -> None:
    """fails when half a character, which JSON can hold and no request, comes into an answer."""
    halves = [chunk(content="a\ud83d"), chunk(content="\ude00b\udc00"), chunk(content="\ud83d"), chunk("stop")]
    deltas, whole = read(openai_form.Reader(LOCAL), halves)
    assert whole.message.text == "a\U0001f600b\ufffd" == "".join(delta.text for delta in deltas)
    events = [called(0, "x", "look", '{"\\ud800": ["\\ud83d\\ude00", {"a": "\\udfff"}]}'), chunk("stop")]
    _, whole = read(openai_form.Reader(LOCAL), events)
    assert arguments_of(whole) == [("look", {"\ufffd": ["\U0001f600", {"a": "\ufffd"}]})]


def test_halves_of_a_character_find_each_other_in_thoughts_and_arguments_too() -> None:
    """fails when half a character comes into thoughts that go back, or into anything that is told."""
    halves = [
        *(
            chunk(reasoning_content="a\ud83d"),
            chunk(reasoning_content="\ude00"),
            chunk(reasoning_content="\udc00\ud83d"),
        ),
        *(called(0, "\ud83d", "look\udc00", '{"a": "\ud83d'), called(0, arguments="\ude00"), called(0, arguments='"}')),
        chunk("tool_calls"),
    ]
    deltas, whole = read(openai_form.Reader(LOCAL), halves)
    thoughts, call = whole.message.content
    assert isinstance(thoughts, Thinking)
    assert (
        thoughts.text == "a\U0001f600\ufffd" == "".join(item.text for item in deltas if isinstance(item, ThinkingDelta))
    )
    assert call == ToolCall(id="\ufffd", name="look\ufffd", arguments={"a": "\U0001f600"})
    assert repr(deltas).encode()
    assert "".join(item.json for item in deltas if isinstance(item, ToolArguments)) == '{"a": "\U0001f600"}'
    blocks = [
        *(start(0, type="thinking", thinking="", signature="s"), start(1, type="text", text="")),
        *(delta(0, type="thinking_delta", thinking="\ud83d"), delta(1, type="text_delta", text="b\ud83d")),
        *(delta(0, type="thinking_delta", thinking="\ude00"), delta(1, type="text_delta", text="\ude01")),
    ]
    _, whole = read(anthropic_form.Reader(CLAUDE), [begun(), *blocks, *ended("end_turn")])
    assert whole.message.content[0].text == "\U0001f600"  # type: ignore[union-attr]
    assert whole.message.text == "b\U0001f601"


# -- events on the wire

STREAM = b": hello\n\nevent: ping\ndata: {}\n\ndata: a\r\ndata: b\r\n\r\ndata: c\r\r\n\n\ndata: half"


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_counted_wherever_the_chunks_are_cut(cuts: list[int]) -> None:
    """A comment, a ping, and both kinds of line ends count once each; half an event does not count at all."""
    ends = sorted({*cuts, len(STREAM)})
    counter, place, whole = EventCounter(), 0, 0
    for end in ends:
        whole += counter.feed(STREAM[place:end])
        place = end
    assert whole == 4


def test_a_stream_that_ends_within_an_event_is_known() -> None:
    """Whatever its last event's line ends are."""
    for body, unfinished in ((b"data: x\n\n", False), (b"data: x\r\n\r\n", False), (b"data: x\n", True), (b"da", True)):
        counter = EventCounter()
        counter.feed(body)
        assert counter.unfinished == unfinished, body


def test_a_drip_counts_only_when_an_event_is_whole() -> None:
    """fails when bytes that complete no event are taken for a sign of life."""
    counter = EventCounter()
    assert [counter.feed(bytes([byte])) for byte in b"data: x\n\n"] == [0] * 8 + [1]
