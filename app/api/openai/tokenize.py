"""`/tokenize`, `/detokenize`, `/tokenizer_info`: what the model sees of a text, in the shapes vLLM's clients know."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from app.api.door.auth import require
from app.api.http.fields import Strict, Text
from app.api.openai.messages import Message, for_template
from app.api.server import ServerDep
from app.errors import BadRequest

router = APIRouter(tags=["tokens"], dependencies=[Depends(require("infer"))])


class TokenizeBody(Strict):
    """A plain prompt, or messages."""

    model: Text | None = None
    prompt: Text | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


class DetokenizeBody(Strict):
    """Token ids."""

    model: Text | None = None
    tokens: Annotated[list[int], Field(min_length=1)]


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, server: ServerDep) -> dict[str, Any]:
    """Turn a prompt into token ids."""
    reader = server.prompts
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest("Give either prompt or messages.", param="prompt")
    if body.messages is not None:
        messages = for_template(body.messages)
        ids = (await reader.apart(partial(reader.chat, messages, reply=body.add_generation_prompt))).ids
    else:
        ids = await reader.apart(partial(reader.encode, body.prompt or "", special=body.add_special_tokens))
    names = [server.names[token] for token in ids] if body.return_token_strs else None
    return {"tokens": ids, "count": len(ids), "max_model_len": server.engine.max_length, "token_strs": names}


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, server: ServerDep) -> dict[str, Any]:
    """Turn token ids into text."""
    prompt = await server.prompts.apart(partial(server.prompts.tokens, body.tokens, "tokens"))
    return {"prompt": prompt.text}


@router.get("/tokenizer_info")
async def tokenizer_info(server: ServerDep) -> dict[str, Any]:
    """Describe the tokenizer."""
    tokenizer = server.prompts.tokenizer
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "vocab_size": server.prompts.vocabulary,
        "model_max_length": server.settings.max_length,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "chat_template": tokenizer.chat_template,
    }
