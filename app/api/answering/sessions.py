"""Which session a request is a turn of, and prompts that go on from a recorded turn, token for token.

A client names a session by the field `session_id`, by `conversation` (a text, or an object with an `id`), by the header
`X-Session-Id`, or by `metadata.session`, in that order; inside it is the session. When the text of a prompt begins with
a recorded turn of it (that turn's prompt and the answer as it was given), the ids of that turn stand as they were
sampled and only what comes after them is tokenized: text read back is not always cut into the same tokens, and the
policy that learns must see what the policy saw. A template that writes past turns otherwise (their thinking left
out) yields another text, and then its rendering is what is asked. Leaves out numbering and storing turns
(`app.store.sessions`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final

from fastapi import Depends, Header
from sqlalchemy.orm import Session
from torch import Tensor

from app.api.answering.ask import Prompt
from app.api.answering.generation import GenerationFields
from app.api.answering.prompts import PromptReader
from app.api.server import Server
from app.errors import BadRequest, NotFound
from app.store.sessions import ID_PREFIX, Former, find, former
from training.codec import decode

SESSION_HEADER: Final = "x-session-id"
SESSION_FIELD: Final = "session"  # of `metadata`
LONGEST_NAME: Final = 256  # characters


async def name_of_session(
    x_session_id: Annotated[
        str | None,
        Header(description="Another way to say `session_id`.", json_schema_extra={"maxLength": LONGEST_NAME}),
    ] = None,
) -> None:
    """Describe the header, which `session_of` reads."""


SESSION_REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    404: {"description": "There is no session of this id."},
    409: {"description": "The session is being removed."},
}
IN_SESSION: Final = Depends(name_of_session)  # among the `dependencies` of a route that answers


def session_of(headers: Mapping[str, str], fields: GenerationFields) -> str | None:
    """Name the session a request is a turn of; None: it is of none.

    Raises:
        BadRequest: two fields disagree, or a name is too long.

    """
    conversation = fields.conversation if isinstance(fields.conversation, str | None) else fields.conversation.id
    if fields.session_id is not None and conversation not in (None, fields.session_id):
        raise BadRequest("session_id and conversation name different sessions; send one of them.", param="conversation")
    named = fields.session_id or conversation
    named = named or headers.get(SESSION_HEADER) or (fields.metadata or {}).get(SESSION_FIELD) or None
    given = [one for one in (named, headers.get(SESSION_HEADER)) if one is not None]  # one that is not looked at too
    if any(len(one) > LONGEST_NAME or "\x00" in one for one in given):
        raise BadRequest(f"A session's name has {LONGEST_NAME} characters at most.", param="session_id")
    return named


def opening_of(asked_ids_P: Tensor, task: str) -> bytes:
    """Digest what an episode begins with: its first prompt and `metadata.task`."""
    return hashlib.sha256(task.encode("utf-8", "replace") + b"\0" + asked_ids_P.cpu().numpy().tobytes()).digest()


async def continued(
    server: Server, key_id: str, session: str | None, prompt: Prompt, *, as_ids: bool = False
) -> Prompt:
    """Put the exact ids of the turn a prompt goes on from into it, where there is one.

    Args:
        server: for its store and tokenizer.
        key_id: the key that asks; another's sessions are none of its.
        session: the client's name for the session, or its id.
        prompt: as rendered, or as given.
        as_ids: whether the client gave it as token ids, which then stand.

    Raises:
        NotFound: an id that is no session of this key.
        Unavailable: the store cannot be asked.

    """
    if session is None:
        return prompt

    def look(store: Session) -> Former | None:
        if session.startswith(ID_PREFIX) and find(store, key_id, session) is None:
            raise NotFound(f"There is no session {session[:80]}.", param="session_id")
        return former(store, key_id, session, prompt.text)

    found = await server.traffic.run(look)
    if found is None:
        return prompt
    made = await server.prompts.apart(partial(spliced, server.prompts, prompt, found))
    return prompt if as_ids and made.ids != prompt.ids else made


def spliced(reader: PromptReader, prompt: Prompt, turn: Former) -> Prompt:
    """Write a prompt as a former turn's ids and what comes after them; the prompt itself where that cannot be."""
    rollout = decode(turn.payload)
    said = answer_ids(reader, rollout.token_ids_T.tolist(), turn)
    after = place_of(reader, prompt.ids, turn.prompt_text + turn.answer)
    if said is None or after is None:
        return prompt
    before = [*rollout.asked_ids_P.tolist(), *said]
    control = reader.control_ids
    if [one for one in before if one in control] != [one for one in prompt.ids[:after] if one in control]:
        return prompt  # text that looks like a control token is no control token
    return Prompt((*before, *prompt.ids[after:]), prompt.text, turn.interaction_id)


def answer_ids(reader: PromptReader, token_ids: list[int], turn: Former) -> list[int] | None:
    """Give the ids whose text an answer is, without the one that ended it; None: its text was cut from them."""
    if turn.stopped and reader.shown(token_ids[:-1]) == turn.answer:
        return token_ids[:-1]
    return token_ids if reader.shown(token_ids) == turn.answer else None


def place_of(reader: PromptReader, ids: Sequence[int], text: str) -> int | None:
    """Find how many of these ids spell a text that theirs begins with; None where an id spans its end."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(reader.decode(ids[:middle])) < len(text):
            low = middle + 1
        else:
            high = middle
    return low if reader.decode(ids[:low]) == text else None
