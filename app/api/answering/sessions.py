"""Which session a request is a turn of, and prompts that go on from a recorded turn, token for token.

A client names a session by the field `session_id`, by `conversation` (a text, or an object with an `id`), by the header
`X-Session-Id`, or by `metadata.session`, in that order; inside it is the session. When the text of a prompt begins with
a recorded turn of it (that turn's prompt and the answer as it was given), the ids of that turn stand as they were
sampled and only what comes after them is tokenized: text read back is not always cut into the same tokens, and the
policy that learns must see what the policy saw. A template that writes past turns otherwise (their thinking left
out) yields another text, and then its rendering is what is asked. Leaves out numbering and storing turns
(`app.store.sessions`), and what text a turn was whose calls a client sends back (`app.api.answering.said_before`).
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
from app.api.answering.said_before import Conversation, verbatim
from app.api.door.callers import Caller
from app.api.door.session_ids import known_as
from app.api.server import Server
from app.engine.text import CONTEXT, Detokenizer
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


def session_of(server: Server, caller: Caller, headers: Mapping[str, str], fields: GenerationFields) -> str | None:
    """Name the session a request is a turn of, as it is stored; None: it is of none.

    Raises:
        BadRequest: two fields disagree, or a name is too long.
        Unavailable: the name could not be redacted.

    """
    conversation = fields.conversation if isinstance(fields.conversation, str | None) else fields.conversation.id
    if fields.session_id is not None and conversation not in (None, fields.session_id):
        raise BadRequest("session_id and conversation name different sessions; send one of them.", param="conversation")
    named = fields.session_id or conversation
    named = named or headers.get(SESSION_HEADER) or (fields.metadata or {}).get(SESSION_FIELD) or None
    given = [one for one in (named, headers.get(SESSION_HEADER)) if one is not None]  # one that is not looked at too
    if any(len(one) > LONGEST_NAME or "\x00" in one for one in given):
        raise BadRequest(f"A session's name has {LONGEST_NAME} characters at most.", param="session_id")
    return None if named is None else known_as(server.redactor, caller, named)


def opening_of(asked_ids_P: Tensor, task: str) -> bytes:
    """Digest what an episode begins with: its first prompt and `metadata.task`."""
    return hashlib.sha256(task.encode("utf-8", "replace") + b"\0" + asked_ids_P.cpu().numpy().tobytes()).digest()


async def continued(
    server: Server,
    key_id: str,
    session: str | None,
    prompt: Prompt,
    conversation: Conversation | None = None,
    *,
    as_ids: bool = False,
) -> Prompt:
    """Put the exact ids of the turn a prompt goes on from into it, where there is one.

    Args:
        server: for its store and tokenizer.
        key_id: the key that asks; another's sessions are none of its.
        session: the client's name for the session, or its id.
        prompt: as rendered, or as given.
        conversation: that the prompt was rendered from.
        as_ids: whether the client gave it as token ids, which then stand.

    Raises:
        NotFound: an id that is no session of this key.
        Unavailable: the store cannot be asked.

    """
    if session is None:
        return prompt
    if conversation is not None and conversation.calling:
        exact = await word_for_word(server, key_id, session, conversation)
        if exact is not None:
            return exact

    def look(store: Session) -> Former | None:
        if session.startswith(ID_PREFIX) and find(store, key_id, session) is None:
            raise NotFound(f"There is no session {session[:80]}.", param="session_id")
        return former(store, key_id, session, prompt.text)

    found = await server.traffic.run(look)
    if found is None:
        return prompt
    made = await server.prompts.apart(partial(spliced, server.prompts, prompt, found))
    return prompt if as_ids and made.ids != prompt.ids else made


async def word_for_word(server: Server, key_id: str, session: str, conversation: Conversation) -> Prompt | None:
    """Put the ids of former turns that called tools into a prompt; None where they cannot be.

    Raises:
        Unavailable: the store cannot be asked.

    """
    dialect = server.prompts.template.dialect
    if dialect is None:
        return None
    known = await server.traffic.run(lambda store: verbatim(store, key_id, session, conversation, dialect))
    if known is None:
        return None
    try:
        prompt = await server.prompts.apart(partial(conversation.render, known.answers))
    except BadRequest:
        return None  # the template has no place for an answer that is a text and calls
    found = await server.traffic.run(lambda store: former(store, key_id, session, prompt.text))
    if found is None or found.turn < known.turn:
        return None
    made = await server.prompts.apart(partial(spliced, server.prompts, prompt, found))
    return made if made.follows is not None else None


def spliced(reader: PromptReader, prompt: Prompt, turn: Former) -> Prompt:
    """Write a prompt as a former turn's ids and what comes after them; the prompt itself where that cannot be."""
    rollout = decode(turn.payload)
    asked = rollout.asked_ids_P.tolist()
    said = answer_ids(reader, asked, rollout.token_ids_T.tolist(), turn)
    after = place_of(reader, prompt.ids, ahead(reader, prompt) + turn.prompt_text + turn.answer)
    if said is None or after is None:
        return prompt
    before = [*asked, *said]
    control = reader.control_ids - set(reader.template.mark_tokens().values())  # of a former call, read back as text
    if [one for one in before if one in control] != [one for one in prompt.ids[:after] if one in control]:
        return prompt  # text that looks like a control token is no control token
    return Prompt((*before, *prompt.ids[after:]), prompt.text, turn.interaction_id)


def ahead(reader: PromptReader, prompt: Prompt) -> str:
    """Give what the tokens put before a text are shown as, which is no part of the text."""
    whole = reader.decode(prompt.ids)
    return whole.removesuffix(prompt.text) if whole.endswith(prompt.text) else ""


def answer_ids(reader: PromptReader, asked: Sequence[int], token_ids: list[int], turn: Former) -> list[int] | None:
    """Give the ids whose text an answer is, without the one that ended it; None: its text was cut from them.

    The text began a turn, or went on from the prompt's, or may hold calls.
    """
    for ids in ([token_ids[:-1]] if turn.stopped else []) + [token_ids]:
        if turn.answer in (reader.shown(ids), gone_on(reader, asked, ids), marked(reader, ids)):
            return ids
    return None


def gone_on(reader: PromptReader, asked: Sequence[int], ids: Sequence[int]) -> str:
    """Read ids as the text that goes on from a prompt's."""
    detokenizer = Detokenizer(reader.shown, reader.pieces, before=asked[-CONTEXT:])
    return "".join([*map(detokenizer.push, ids), detokenizer.flush()])


def marked(reader: PromptReader, ids: list[int]) -> str:
    """Read ids as an answer that may hold calls: special tokens that are part of them are shown."""
    text = Detokenizer(reader.shown, marks=reader.template.marks_by_id)
    return "".join(map(text.push, ids)) + text.flush()


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
