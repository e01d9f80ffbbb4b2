"""The model that `agent.py` teaches: a tiny one that was shown how others use the shop's tools, and their mistakes.

Its weights lie in `pupil_weights`; `python examples/pupil.py DIRECTORY` makes them again in a minute, by the
recipe of the demo's model (`training.demo_model`) on other lessons: a question, a call, what the tool gave back, an
answer. Its teacher calls the wrong tool, mistakes one argument for another, or misreads a result now and then, and the
pupil has taken on these habits. Leaves out words: it knows those of the shop.
"""

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from shop import ITEMS, Task, draw_task, look_up, work_out
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training.demo_model.recipe import IGNORED, Batch, Recipe, answer_loss, build_model, teach
from training.demo_model.teacher import Slips
from training.demo_model.tokenizer import WORDS, build_tokenizer

RECIPE: Final = Recipe(steps=300, clean_share=0.6, batch=32, max_length=512)
# Chance of each mistake where it can be made.
HABITS: Final = MappingProxyType({"tool": 0.3, "sign": 0.5, "number": 0.25, "result": 0.2})
NO_HABITS: Final = MappingProxyType(dict.fromkeys(HABITS, 0.0))
SHOP_WORDS: Final = (
    *("call", "response", "name", "arguments", "expression", "item", "shop", "price", "tools", "no ", "sum", "item "),
    *("does ", "cost ", "in ", "shop ", "It ", "You ", "keep ", *ITEMS, *(f"{item} " for item in ITEMS)),
)
CHAT_TEMPLATE: Final = """\
{{- bos_token }}
{%- if tools %}
{{- '<|im_start|>tools' }}{% for tool in tools %}{{ ' ' + tool['function']['name'] }}{% endfor %}{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') }}
{%- for call in message['tool_calls'] or [] %}
{{- '<tool_call>\\n{"name": "' + call['function']['name'] + '", "arguments": ' }}
{{- call['function']['arguments'] | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
TOOLS: Final = tuple({"type": "function", "function": {"name": name}} for name in ("calculator", "price"))


def make_pupil(directory: Path, recipe: Recipe = RECIPE) -> None:
    """Make the model and write it where `from_pretrained` reads it."""
    tokenizer = build_tokenizer(recipe.max_length, (*WORDS, *SHOP_WORDS))
    tokenizer.chat_template = CHAT_TEMPLATE
    model = build_model(recipe, tokenizer)

    def lesson_loss(rng: random.Random, slips: Slips) -> Tensor:
        habits = NO_HABITS if slips.digit == 0 else HABITS
        return answer_loss(model, lessons(rng, recipe.batch, habits, tokenizer))

    def on_step(done: int, loss: float) -> None:
        if done % 50 == 0:
            print(f"{done} of {recipe.steps} steps, {loss:.2f} nats", flush=True)

    teach(recipe, model, lesson_loss, on_step)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def lessons(rng: random.Random, count: int, habits: Mapping[str, float], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Write lessons as token ids: what the pupil says in both of its turns is labelled, what it is told is not."""
    rows = [pieces_of(tokenizer, a_lesson(rng, habits)) for _ in range(count)]
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    width = max(sum(len(ids) for ids, _ in pieces) for pieces in rows)
    ids_BT = torch.full((count, width), pad)
    labels_BT = torch.full((count, width), IGNORED)
    for row, pieces in enumerate(rows):
        begin = 0
        for ids, is_said in pieces:
            end = begin + len(ids)
            ids_BT[row, begin:end] = torch.tensor(ids)
            if is_said:
                labels_BT[row, begin:end] = torch.tensor(ids)
            begin = end
    return Batch(ids_BT, labels_BT)


def pieces_of(tokenizer: PreTrainedTokenizerFast, lesson: Sequence[dict[str, Any]]) -> list[tuple[list[int], bool]]:
    """Cut a conversation into token ids that the pupil is told, and those that it says, in turn."""
    pieces: list[tuple[list[int], bool]] = []
    before = ""
    for place, message in enumerate(lesson):
        if message["role"] != "assistant":
            continue
        asked = tokenizer.apply_chat_template(
            list(lesson[:place]), tools=[*TOOLS], tokenize=False, add_generation_prompt=True
        )
        said = str(message["content"]) + str(tokenizer.eos_token)
        pieces += [(ids_of(tokenizer, str(asked)[len(before) :]), False), (ids_of(tokenizer, said), True)]
        before = str(asked) + said
    return pieces


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Tokenize."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def a_lesson(rng: random.Random, habits: Mapping[str, float]) -> list[dict[str, Any]]:
    """Work on a task as the teacher does."""
    task = draw_task(rng, "shown")
    name, arguments = the_call(rng, task, habits)
    result = work_out(**arguments) if name == "calculator" else look_up(**arguments)
    read = str(rng.randrange(10, 100)) if rng.random() < habits["result"] else result
    call = f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'
    return [
        {"role": "user", "content": task.question},
        {"role": "assistant", "content": call},
        {"role": "tool", "content": result},
        {"role": "assistant", "content": f"It is {read}."},
    ]


def the_call(rng: random.Random, task: Task, habits: Mapping[str, float]) -> tuple[str, dict[str, Any]]:
    """Choose a tool and its arguments, or the wrong ones."""
    left = int("".join(filter(str.isdecimal, task.question))[:2])
    if rng.random() < habits["tool"]:
        if task.tool == "price":
            return "calculator", {"expression": f"{left} + {rng.randrange(10, 100)}"}
        return "price", {"item": rng.choice(ITEMS), "shop": left}
    if task.tool == "price":
        shop = rng.randrange(10, 100) if rng.random() < habits["number"] else left
        return "price", {"item": task.arguments["item"], "shop": shop}
    expression = str(task.arguments["expression"])
    if "-" in expression and rng.random() < habits["sign"]:
        expression = expression.replace("-", "+")
    return "calculator", {"expression": expression}


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_pupil(Path(sys.argv[1]))
