"""A response in one piece: every choice gathered and committed, then shown.

Leaves out streaming (`app.api.openai.stream`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive

from app.api.answering.answers import Answers, Stored
from app.api.answering.ask import Ask
from app.api.answering.places import of_answer
from app.api.answering.token_names import TokenNames, chat_logprobs, completion_logprobs
from app.api.http.disconnect import watched
from app.api.openai.echo import Echo
from app.api.openai.usage import Usage
from app.chat.calls import Call, CallReader, call_id
from app.engine.request import Delta, TokenInfo


@dataclass(slots=True)
class Choice:
    """One choice as it is gathered."""

    tokens: list[TokenInfo] = field(default_factory=list)
    reading: str = ""  # of the latent steps
    stored: Stored | None = None  # set last


async def gather(answers: Answers, receive: Receive) -> list[Choice]:
    """Wait for every choice to be committed.

    Raises:
        LepoError: the engine failed, the deadline passed, or a choice could not be stored.

    """
    choices = [Choice() for _ in range(answers.ask.choices)]
    try:
        async with watched(receive, answers.cancel):
            while answers.open and answers.failure is None:
                for item in await answers.take():
                    choice = choices[item.choice]
                    if isinstance(item, Stored):
                        choice.stored = item
                    elif isinstance(item.event, Delta):
                        choice.tokens.extend(item.event.tokens)
                    else:
                        choice.reading = item.event.reading
    finally:
        await answers.finish()
    if answers.failure is not None:
        raise answers.failure
    return choices


def chat_completion(
    answers: Answers, choices: list[Choice], model: str, names: TokenNames, readers: Sequence[CallReader | None]
) -> dict[str, Any]:
    """Write a `chat.completion`; `readers` find the calls in each choice, where it may hold any."""
    ask = answers.ask
    written = (
        chat_choice(choice, names, reader, ask.completion_id, logprobs=ask.logprobs) | token_ids(ask, choice)
        for choice, reader in zip(choices, readers, strict=True)
    )
    shown = written if ask.logprobs else list(written)  # log-probabilities are large, see `app.api.http.rendering`
    return envelope(answers, choices, model, "chat.completion") | {"choices": shown, **prompt_token_ids(ask, 0)}


def token_ids(ask: Ask, choice: Choice) -> dict[str, list[int]]:
    """Show the ids of a choice's answer where they are asked for, the one that ended it included; latents have none."""
    assert choice.stored is not None
    return {"token_ids": choice.stored.finished.rollout.token_ids_T.tolist()} if ask.fields.return_token_ids else {}


def prompt_token_ids(ask: Ask, prompt: int) -> dict[str, list[int]]:
    """Show the ids of a prompt where they are asked for."""
    return {"prompt_token_ids": list(ask.prompts[prompt].ids)} if ask.fields.return_token_ids else {}


def chat_choice(
    choice: Choice, names: TokenNames, reader: CallReader | None, completion_id: str, *, logprobs: bool
) -> dict[str, Any]:
    """Write one choice of a chat; the latent steps' reading stands beside the answer, never in it."""
    assert choice.stored is not None
    said = choice.stored.finished.text
    pieces = [said] if reader is None else [*reader.push(said), *reader.end()]
    calls = [piece for piece in pieces if isinstance(piece, Call)]
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if calls:
        ids = [call_id(completion_id, choice.stored.choice, place) for place in range(len(calls))]
        message["tool_calls"] = [
            {"id": one, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for one, call in zip(ids, calls, strict=True)
        ]
    if choice.stored.finished.rollout.latent_length:
        message |= {"reasoning": choice.reading, "reasoning_content": choice.reading}
    return {
        "index": choice.stored.choice,
        "message": message,
        "logprobs": chat_logprobs(names, choice.tokens) if logprobs else None,
        "finish_reason": finish_reason(choice.stored, called=bool(calls)),
        **choice.stored.extra,
    }


def finish_reason(stored: Stored, *, called: bool) -> str:
    """Say why a choice of a chat ended: one that was not cut short and calls tools ends for their sake."""
    return "tool_calls" if called and stored.shown_reason == "stop" else stored.shown_reason


def text_completion(
    answers: Answers, choices: list[Choice], model: str, names: TokenNames, echoes: tuple[Echo, ...]
) -> dict[str, Any]:
    """Write a `text_completion`."""
    ask, reader = answers.ask, answers.server.prompts
    before = [echo.logprobs(reader, names) for echo in echoes] if ask.logprobs else []

    def written(place: int, choice: Choice) -> dict[str, Any]:
        prompt = place // ask.fields.choices
        echoed = echoes[prompt].text if echoes else ""
        logprobs = None
        if ask.logprobs:
            places = of_answer(reader, names, ask.prompts[prompt], len(echoed))
            logprobs = completion_logprobs(names, choice.tokens, places.of([one.token_id for one in choice.tokens]))
            logprobs = {key: before[prompt][key] + logprobs[key] for key in logprobs} if before else logprobs
        return text_choice(choice, echoed, logprobs) | token_ids(ask, choice) | prompt_token_ids(ask, prompt)

    several = (written(place, choice) for place, choice in enumerate(choices))
    shown = several if ask.logprobs else list(several)  # log-probabilities are large, see `app.api.http.rendering`
    return envelope(answers, choices, model, "text_completion") | {"choices": shown}


def text_choice(choice: Choice, echoed: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    """Write one choice of a plain completion, after its prompt where that is wanted."""
    assert choice.stored is not None
    reasoning = {"reasoning": choice.reading} if choice.stored.finished.rollout.latent_length else {}
    return {
        "index": choice.stored.choice,
        "text": echoed + choice.stored.finished.text,
        "logprobs": logprobs,
        "finish_reason": choice.stored.shown_reason,
        **reasoning,
        **choice.stored.extra,
    }


def envelope(answers: Answers, choices: list[Choice], model: str, kind: str) -> dict[str, Any]:
    """Write what both kinds of response begin with."""
    ask = answers.ask
    usage = Usage(ask.prompt_tokens, ask.choices)
    for choice in choices:
        assert choice.stored is not None
        rollout = choice.stored.finished.rollout
        usage.settle(choice.stored.choice, rollout.latent_length, rollout.answer_length)
    return {"id": ask.completion_id, "object": kind, "created": ask.created, "model": model, "usage": usage.as_json()}
