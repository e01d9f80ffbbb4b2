"""`/tokenize`, `/detokenize`, `/tokenizer_info`: what the model sees of a text, in the shapes vLLM's clients know."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import JSONResponse, Response

from app.api.door.auth import require
from app.api.http.fields import Strict, Text, example
from app.api.openai import shapes
from app.api.openai.messages import Message, for_template
from app.api.server import ServerDep
from app.errors import BadRequest

router = APIRouter(tags=["tokens"], dependencies=[Depends(require("infer"))])


class TokenizeBody(Strict):
    """A plain prompt, or messages."""

    model_config = example(prompt="47 + 6")

    model: Text | None = None
    prompt: Text | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


class DetokenizeBody(Strict):
    """Token ids."""

    model_config = example(tokens=[4, 7])

    model: Text | None = None
    tokens: Annotated[list[int], Field(min_length=1)]


@router.post("/tokenize", response_model=shapes.Tokens)
async def tokenize(body: TokenizeBody, server: ServerDep) -> Response:
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
    longest = server.engine.max_length
    return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": longest, "token_strs": names})


@router.post("/detokenize", response_model=shapes.PromptOfTokens)
async def detokenize(body: DetokenizeBody, server: ServerDep) -> Response:
    """Turn token ids into text."""
    prompt = await server.prompts.apart(partial(server.prompts.tokens, body.tokens, "tokens"))
    return JSONResponse({"prompt": prompt.text})


@router.get("/tokenizer_info", response_model=shapes.Tokenizer)
async def tokenizer_info(server: ServerDep) -> Response:
    """Describe the tokenizer."""
    tokenizer = server.prompts.tokenizer
    shown = {
        "tokenizer_class": type(tokenizer).__name__,
        "vocab_size": server.prompts.vocabulary,
        "model_max_length": server.settings.max_length,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "chat_template": tokenizer.chat_template,
    }
    return JSONResponse(shown)
