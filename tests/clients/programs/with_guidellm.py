"""guidellm: short benchmarks of synthetic prompts, by its command line, with the tokenizer of a local directory."""

import json
from functools import partial
from pathlib import Path

from tests.clients.programs.place import MODEL, Place

PACKAGE = "guidellm"
REQUESTS, ANSWER = 6, 8  # tokens of an answer


def benchmark(place: Place, route: str) -> None:
    from guidellm.cli import cli

    report = Path(place.scratch) / "report.json"
    backend = f"kind=openai_http,target={place.url},model={MODEL},request_format={route},api_key={place.key}"
    options = {
        "--backend": backend,
        "--tokenizer": f"kind=huggingface_auto,model={place.model_dir}",
        "--data": f"kind=synthetic_text,prompt_tokens=24,output_tokens={ANSWER}",
        "--profile": "kind=concurrent,streams=2",
        "--constraint": f"kind=max_requests,count={REQUESTS}",
        "--output": f"kind=json,path={report}",
    }
    asked = [part for option in options.items() for part in option]
    cli.main(["run", *asked, "--disable-console"], standalone_mode=False)
    (measured,) = json.loads(report.read_text())["benchmarks"]
    totals = measured["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"], totals["incomplete"]) == (REQUESTS, 0, 0), totals
    tokens = measured["metrics"]["output_token_count"]["successful"]
    assert tokens["min"] >= ANSWER, tokens


DOINGS = {
    "chat: two streams, every answer of the length asked for": partial(benchmark, route="/v1/chat/completions"),
    "completions: likewise": partial(benchmark, route="/v1/completions"),
    "Responses: likewise": partial(benchmark, route="/v1/responses"),
}
