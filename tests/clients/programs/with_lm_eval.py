"""lm-eval on tasks of our own: what it gets over HTTP is what its own Hugging Face backend gets from the same weights.

Everything is local: a handful of documents, the model's directory, no hub.
"""

import json
import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from tests.clients.programs.place import MODEL, Place

PACKAGE = "lm_eval"
LONGEST = 512  # tokens
DOCUMENTS: list[dict[str, Any]] = [
    {"question": "What is 2 + 3", "choices": ["5", "6 ", "47 "], "gold": 0},
    {"question": "What is 4 + 3", "choices": ["5", "7", "a "], "gold": 1},
    {"question": "Work out 40 - 7", "choices": ["33 ", "6 ", "47 ", "40 - 7"], "gold": 0},
]
CHOICE = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "gold"}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0},
}
ROLLING = {"output_type": "loglikelihood_rolling", "doc_to_target": "{{question}}", "doc_to_text": ""}


def task(place: Place, name: str, kind: dict[str, Any], metric: str) -> dict[str, Any]:
    file = Path(place.scratch) / "documents.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "doc_to_text": "{{question}}\nAnswer: ",
        "target_delimiter": "",
        "metric_list": [{"metric": metric}],
        **deepcopy(kind),  # a run writes its settings into it
    }


def found(kind: str, arguments: dict[str, Any], tasks: list[dict[str, Any]], **more: Any) -> list[Any]:
    """Run it, and give what was answered to every request."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    none = TaskManager(include_defaults=False)  # of its thousands of tasks
    settings = {"log_samples": True, "bootstrap_iters": 0, "task_manager": none, **more}
    run = lm_eval.simple_evaluate(model=kind, model_args=arguments, tasks=tasks, **settings)
    assert set(run["results"]) == {each["task"] for each in tasks}
    return [answer for samples in run["samples"].values() for sample in samples for answer in flat(sample["resps"])]


def flat(answers: list[Any]) -> list[Any]:
    return [answer for answered in answers for answer in answered]


def over_http(place: Place, route: str, **more: Any) -> dict[str, Any]:
    os.environ["OPENAI_API_KEY"] = place.key
    address = {"model": MODEL, "base_url": f"{place.v1}/{route}", "tokenizer": place.model_dir}
    return {**address, "tokenizer_backend": "huggingface", "max_retries": 1, "max_length": LONGEST, **more}


@cache
def own(place: Place) -> tuple[list[Any], list[Any], list[Any]]:
    """What lm-eval's Hugging Face backend says: of choices, of whole texts, and written greedily."""
    arguments = {"pretrained": place.model_dir, "device": "cpu", "dtype": "float32", "max_length": LONGEST}
    answers = found("hf", arguments, tasks_of(place))
    choices = sum(len(document["choices"]) for document in DOCUMENTS)
    return answers[:choices], answers[choices:-3], answers[-3:]


def tasks_of(place: Place) -> list[dict[str, Any]]:
    return [
        task(place, "a_choice", CHOICE, "acc"),
        task(place, "b_rolling", ROLLING, "word_perplexity"),
        task(place, "c_written", WRITTEN, "exact_match"),
    ]


def log_likelihoods(place: Place) -> None:
    answers = found("local-completions", over_http(place, "completions"), tasks_of(place)[:1])
    alike(answers, own(place)[0])


def at_once(place: Place) -> None:
    arguments = over_http(place, "completions", num_concurrent=4)
    alike(found("local-completions", arguments, tasks_of(place)[:1]), own(place)[0])


def in_batches(place: Place) -> None:
    arguments = over_http(place, "completions", batch_size=4)
    alike(found("local-completions", arguments, tasks_of(place)[:1]), own(place)[0])


def whole_texts(place: Place) -> None:
    answers = found("local-completions", over_http(place, "completions"), tasks_of(place)[1:2])
    alike([(answer, False) for answer in answers], [(answer, False) for answer in own(place)[1]])


def written(place: Place) -> None:
    plain = {"latent": {"length": 0}}  # the other backend knows no latent steps
    answers = found("local-completions", over_http(place, "completions"), tasks_of(place)[2:], gen_kwargs=plain)
    assert answers == own(place)[2], (answers, own(place)[2])


def chat(place: Place) -> None:
    arguments = over_http(place, "chat/completions", num_concurrent=3)
    answers = found("local-chat-completions", arguments, tasks_of(place)[2:], apply_chat_template=True)
    assert len(answers) == len(DOCUMENTS)
    assert all(isinstance(answer, str) and answer for answer in answers)


def alike(answers: list[Any], expected: list[Any]) -> None:
    """Log-likelihoods are the same to a rounding, and so is whether greedy decoding would have said it."""
    assert len(answers) == len(expected)
    for (value, greedy), (other, as_greedy) in zip(answers, expected, strict=True):
        assert abs(value - other) < 1e-3, (answers, expected)
        assert greedy == as_greedy


DOINGS = {
    "`local-completions`: log-likelihoods of choices, as its `hf` backend finds them": log_likelihoods,
    "`local-completions`: likewise, four requests at once": at_once,
    "`local-completions`: likewise, four prompts a request": in_batches,
    "`local-completions`: log-likelihoods of whole texts (rolling), likewise": whole_texts,
    "`local-completions`: greedy answers, letter for letter those of its `hf` backend": written,
    "`local-chat-completions`: answers by the chat template, three at once": chat,
}
