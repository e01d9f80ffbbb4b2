"""From a checked request to its response: what chat and plain completions do alike.

Leaves out reading prompts and writing answers (`chat`, `completions`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.api.answering.answers import Answers
from app.api.answering.ask import Prompt
from app.api.answering.constraint import compiled
from app.api.answering.formats import ResponseFormat, constraint_of
from app.api.answering.generation import Budget, GenerationFields, draw_settings, first_seed
from app.api.door.callers import Caller
from app.api.server import Server
from app.engine.constraint import Constraint
from app.errors import BadRequest, Forbidden, NotFound
from training.graders.parse import parse_grader
from training.graders.spec import GraderSpecError
from training.placement import ANSWER, Placement


def check_fields(server: Server, fields: GenerationFields, caller: Caller, prompts: int) -> None:
    """Refuse what can be refused before the prompt is tokenized.

    Raises:
        NotFound: another model.
        Forbidden: a priority above the others' without an admin key of the service.
        TooMany: the caller's project has used up its bytes or its graders' time.
        BadRequest: too many answers, a grader that does not parse or has nothing to grade, an option of streams without
            a stream.

    """
    if fields.model != server.settings.served_name:
        words = f"There is no model {fields.model!r} here; this server serves {server.settings.served_name!r}."
        raise NotFound(words, param="model", code="model_not_found")
    most = server.settings.max_choices
    if fields.choices > most:
        raise BadRequest(f"n may be {most} at most (LEPO_MAX_CHOICES).", param="n")
    if fields.choices * prompts > most:
        raise BadRequest(f"n times the number of prompts may be {most} at most (LEPO_MAX_CHOICES).", param="prompt")
    own = caller.bounds.max_choices
    if own and fields.choices * prompts > own:
        words = f"n, times the number of prompts, may be {own} at most with this key."
        raise BadRequest(words, param="n" if fields.choices > own else "prompt")
    caller.require_room()
    if fields.stream_options is not None and not fields.stream:
        raise BadRequest("stream_options may be given with stream: true only.", param="stream_options")
    if (fields.priority or 0) < 0 and not caller.rules:
        raise Forbidden("A priority below 0 needs an admin key of the service.", param="priority")
    if fields.grader is not None and fields.store is False:
        raise BadRequest("A grader grades recorded answers; leave out store: false, or the grader.", param="grader")
    check_grader(fields.grader)
    if fields.grader is not None:
        caller.require_grading_time()


async def constraint_for(server: Server, fields: GenerationFields) -> Constraint | None:
    """Give what the answers' text must be, compiled; None: any text.

    Raises:
        BadRequest: it cannot be served, or does not go with another field; `param` names the field.
        Unavailable: too many wait for theirs.

    """
    if fields.structured_outputs is not None and (fields.response_format or ResponseFormat(type="text")).type != "text":
        raise BadRequest("Send response_format or structured_outputs, not both.", param="structured_outputs")
    wanted = constraint_of(fields.response_format, fields.structured_outputs)
    return None if wanted is None else await checked(server, fields, *wanted)


async def checked(server: Server, fields: GenerationFields, constraint: Constraint, param: str) -> Constraint:
    """Compile a constraint that a request asks for, or that follows from it.

    Raises:
        BadRequest: as of `constraint_for`.
        Unavailable: likewise.

    """
    for name, given in (("min_tokens", fields.min_tokens), ("ignore_eos", fields.ignore_eos)):
        if given:
            raise BadRequest(f"{name} does not go with {param}, which says where the answer ends.", param=name)
    return await compiled(server.engine.grammars, constraint, param)


def check_grader(spec: dict[str, object] | None) -> None:
    """Refuse a grader that could never run.

    Raises:
        BadRequest: `param` is the path of the wrong field.

    """
    if spec is None:
        return
    try:
        parse_grader(spec)
    except GraderSpecError as error:
        raise BadRequest(f"{error}.", param=error.param, code="invalid_grader") from error


def budget_for(
    server: Server, fields: GenerationFields, prompts: Sequence[Prompt], param: str, default: Placement | None
) -> Budget:
    """Settle the draw of every answer, once the prompts' lengths are known; `default` is where its latent steps sit.

    Raises:
        BadRequest: something does not fit; `param` names the field.

    """
    room = server.engine.max_length - max(len(prompt.ids) for prompt in prompts)
    placement = placement_for(server, fields, default)
    budget = draw_settings(
        fields, server.settings, room=room, seed=first_seed(fields), prompt=param, placement=placement
    )
    if (fields.min_tokens or 0) > budget.max_new - budget.sampling.latent_length:
        raise BadRequest("min_tokens is more than the answer may have.", param="min_tokens")
    check_ids(server, "logit_bias", map(int, fields.logit_bias or ()))
    check_ids(server, "stop_token_ids", fields.stop_token_ids or ())
    return replace(budget, stop_ids=special_stops(server, fields.stops))


def special_stops(server: Server, stops: Sequence[str]) -> tuple[int, ...]:
    """Give the ids of stop strings that are special tokens: an answer's text does not show those.

    Raises:
        BadRequest: a stop string holds one among other text, so it could never be found.

    """
    special = server.prompts.special
    for stop in stops:
        inside = next((token for token in special if token in stop and token != stop), None)
        if inside is not None and stop not in special:
            words = f"stop: {stop!r} holds {inside!r}, which is one token and never text; send that alone."
            raise BadRequest(words, param="stop")
    return tuple(special[stop] for stop in stops if stop in special)


def placement_for(server: Server, fields: GenerationFields, default: Placement | None) -> Placement | None:
    """Give the placement a request names, else the default; a length asked for without one begins the answer.

    Raises:
        BadRequest: this model has no place for it.

    """
    latent = fields.latent
    if latent is None or (latent.placement is None and latent.length is None):
        return default
    if latent.placement is None:
        return default or ANSWER
    try:
        return server.placements.named(latent.placement)
    except ValueError as error:
        raise BadRequest(f"latent.placement: {error}.", param="latent.placement") from error


def check_ids(server: Server, field: str, ids: Iterable[int]) -> None:
    """Refuse token ids that the tokenizer does not have.

    Raises:
        BadRequest: there is one.

    """
    stranger = next((token for token in ids if not 0 <= token < server.prompts.vocabulary), None)
    if stranger is not None:
        words = f"{field}: {stranger} is no token id; the last is {server.prompts.vocabulary - 1}."
        raise BadRequest(words, param=field)


def submitted(answers: Answers) -> Answers:
    """Hand a request to the engine.

    Raises:
        EngineRefusal: the engine takes no more.
        BadRequest: the engine cannot do this.

    """
    try:
        answers.submit()
    except ValueError as error:
        raise BadRequest(f"{error}.") from error
    return answers
