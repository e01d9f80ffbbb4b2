"""What a request must be to be taken: each refusal is a ValueError that names the field and its bound."""

from dataclasses import dataclass

from app.engine.request import Request, RequestTooLong

MOST_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one engine can hold."""

    vocabulary: int  # token ids are below this
    max_length: int  # prompt plus generated positions
    max_top_k: int  # candidates kept per step
    most_choices: int  # slots plus places to wait


def check(request: Request, bounds: Bounds) -> None:
    """Refuse what the engine cannot answer.

    Raises:
        RequestTooLong: prompt and budget do not fit a slot.
        ValueError: a field is out of range.

    """
    _check_ids(request, bounds.vocabulary)
    _check_ranges(request, bounds)
    prompt, around = len(request.prompt_ids), len(request.lead_in_ids) + len(request.lead_out_ids)
    least = around + request.sampling.latent_length + 1
    if prompt + least > bounds.max_length:
        given = f", {around} tokens around them" if around else ""
        raise RequestTooLong(
            f"the prompt has {prompt} tokens; with {request.sampling.latent_length} latent steps{given} and one token "
            f"of answer at most {max(bounds.max_length - least, 0)} fit",
            param="prompt",
        )
    if (needed := request.positions) > bounds.max_length:
        raise RequestTooLong(
            f"prompt ({prompt} tokens) and max_new ({request.max_new}) exceed the {bounds.max_length} positions of an "
            f"answer; ask for max_new of at most {request.max_new - (needed - bounds.max_length)}",
            param="max_new",
        )


def check_prompt(prompt_ids: tuple[int, ...], top: int, bounds: Bounds) -> None:
    """Refuse a prompt that the engine cannot score.

    Raises:
        RequestTooLong: it is longer than a slot.
        ValueError: it is empty, holds an unknown id, or `top` is out of range.

    """
    if not prompt_ids or not (min(prompt_ids) >= 0 and max(prompt_ids) < bounds.vocabulary):
        raise ValueError(f"prompt must hold token ids from 0 to {bounds.vocabulary - 1}, at least one")
    if len(prompt_ids) > bounds.max_length:
        raise RequestTooLong(f"the prompt has {len(prompt_ids)} tokens, {bounds.max_length} fit", param="prompt")
    if not 0 <= top <= min(MOST_TOP_LOGPROBS, bounds.vocabulary):
        raise ValueError(f"top must be 0 to {min(MOST_TOP_LOGPROBS, bounds.vocabulary)}, got {top}")


def _check_ids(request: Request, vocabulary: int) -> None:
    if not request.prompt_ids:
        raise ValueError("prompt is empty: give at least one token")
    named = {
        "prompt": request.prompt_ids,
        "placement": request.placement.lead_in_ids + request.placement.lead_out_ids,
        "stop_ids": request.stop_ids,
        "logit_bias": tuple(request.logit_bias),
    }
    for field, ids in named.items():
        if ids and not (min(ids) >= 0 and max(ids) < vocabulary):
            raise ValueError(f"{field} holds token ids outside 0 to {vocabulary - 1}")


def _check_ranges(request: Request, bounds: Bounds) -> None:
    sampling = request.sampling
    most_top = min(MOST_TOP_LOGPROBS, bounds.vocabulary)
    problems = {
        f"top_k must be at most {bounds.max_top_k}, got {sampling.top_k}": sampling.top_k > bounds.max_top_k,
        f"max_new must be more than latent_length ({sampling.latent_length}), got {request.max_new}": (
            request.max_new <= sampling.latent_length
        ),
        f"choices must be 1 to {bounds.most_choices}, got {request.choices}": (
            not 1 <= request.choices <= bounds.most_choices
        ),
        f"penalties.repetition must be more than 0, got {request.penalties.repetition}": (
            not request.penalties.repetition > 0
        ),
        "min_tokens and ignore_eos do not go with a constraint: it says where the answer ends": (
            request.constraint is not None and (request.min_tokens > 0 or request.ignore_eos)
        ),
        f"min_tokens must be 0 or more, got {request.min_tokens}": request.min_tokens < 0,
        "stop holds an empty string: leave it out": not all(request.stop),
        f"top_logprobs must be 0 to {most_top}, got {request.top_logprobs}": not 0 <= request.top_logprobs <= most_top,
        "logit_bias holds a value outside -100 to 100": not all(-100 <= v <= 100 for v in request.logit_bias.values()),
        f"deadline_s must be more than 0, got {request.deadline_s}": (
            request.deadline_s is not None and not request.deadline_s > 0
        ),
    }
    for message, wrong in problems.items():
        if wrong:
            raise ValueError(message)
