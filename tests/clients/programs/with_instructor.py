"""instructor: answers as pydantic models, in the modes that servers of one's own are used with."""

import asyncio
from typing import Any

from tests.clients.programs.place import ASKED, MODEL, Boat, Place

PACKAGE = "instructor"
WANTED: dict[str, Any] = {"model": MODEL, "messages": ASKED, "response_model": Boat, "max_retries": 0}


def in_mode(place: Place, name: str, limit: str = "max_tokens") -> None:
    import instructor
    from openai import AsyncOpenAI, OpenAI

    address: dict[str, Any] = {"base_url": place.v1, "api_key": place.key, "max_retries": 0}
    mode, asked = instructor.Mode[name], {**WANTED, limit: 300}
    with OpenAI(**address) as stock:
        assert isinstance(instructor.from_openai(stock, mode=mode).create(**asked), Boat)

    async def created() -> Any:
        async with AsyncOpenAI(**address) as stock:
            return await instructor.from_openai(stock, mode=mode).create(**asked)

    assert isinstance(asyncio.run(created()), Boat)


def streamed(place: Place, name: str) -> None:
    import instructor
    from openai import OpenAI

    with OpenAI(base_url=place.v1, api_key=place.key, max_retries=0) as stock:
        partials = list(
            instructor.from_openai(stock, mode=instructor.Mode[name]).create_partial(**WANTED, max_tokens=300)
        )
    assert Boat.model_validate(partials[-1].model_dump())


def graded(place: Place) -> None:
    import instructor
    from openai import OpenAI

    with OpenAI(base_url=place.v1, api_key=place.key, max_retries=0) as stock:
        client = instructor.from_openai(stock, mode=instructor.Mode.TOOLS)
        boat, completion = client.create_with_completion(**WANTED, max_tokens=300)
    assert isinstance(boat, Boat)
    place.grade(completion.id)


DOINGS = {
    "`Mode.TOOLS`: create, sync and async": lambda place: in_mode(place, "TOOLS"),
    "`Mode.TOOLS`: create_partial (streamed)": lambda place: streamed(place, "TOOLS"),
    "`Mode.TOOLS`: create_with_completion; graded": graded,
    "`Mode.JSON_SCHEMA`: create, sync and async": lambda place: in_mode(place, "JSON_SCHEMA"),
    "`Mode.JSON_SCHEMA`: create_partial (streamed)": lambda place: streamed(place, "JSON_SCHEMA"),
    "`Mode.TOOLS_STRICT`: create, sync and async": lambda place: in_mode(place, "TOOLS_STRICT"),
    "`Mode.RESPONSES_TOOLS`: create, sync and async": lambda place: in_mode(
        place, "RESPONSES_TOOLS", "max_output_tokens"
    ),
}
