"""`lepo top`: the screen's lines from what a service says, and the screen itself on a terminal."""

import os
import pty
import signal
import subprocess
import sys
import threading
from typing import Any

from app.client.operator_shapes import Learning
from app.commands.screen import Look, doing, engine, held_out, numbers
from app.sparkline import sparkline
from tests.app.api.live import Live, wait_for

OVERVIEW: dict[str, Any] = {"current_job": None, "history": []}


def look(at: float, metrics: dict[str, float], **overview: Any) -> Look:
    learning = Learning(False, "too few grades: 3 of 64 answers wait", 3, None, None, False, {})
    return Look(at, {**OVERVIEW, **overview}, learning, [], [], metrics)


def test_metrics_are_summed_over_their_labels() -> None:
    text = '# TYPE vllm:slots gauge\nvllm:slots{model_name="a"} 2.0\nvllm:slots{model_name="b"} 3.0\n'
    assert numbers(text) == {"slots": 5.0}


def test_rates_are_differences_of_two_looks() -> None:
    before = look(10.0, {"generation_tokens_total": 100.0, "latent_steps_total": 7.0})
    now = look(
        12.0, {"generation_tokens_total": 150.0, "latent_steps_total": 11.0, "slots": 8, "num_requests_running": 3}
    )
    assert engine(now, before) == "3 of 8 slots busy, 0 waiting, 25 tokens/s, 2 latent steps/s"
    again = look(13.0, {})
    assert "0 tokens/s" in engine(again, now), "a server that was started anew counts from 0"


def test_what_is_held_out_is_said_with_its_interval() -> None:
    points = [{"version": 0, "accuracy": 0.25, "total": 100}, {"version": 7, "accuracy": 0.5, "total": 100}]
    assert held_out([]).startswith("not measured")
    assert held_out(points) == "50.0% ± 9.8% by version 7; 25.0% by version 0"
    assert held_out(points[:1]) == "25.0% ± 8.5% by version 0"


def test_what_learning_does_or_waits_for() -> None:
    assert doing(look(0, {})) == "too few grades: 3 of 64 answers wait"
    assert doing(look(0, {}, current_job={"phase": "gate"})) == "an update runs: gate"


def test_a_curve_has_a_block_a_value_and_fits() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline([0.3] * 1000)) <= 56


def test_on_a_terminal_it_goes_on_until_it_is_ended(live: Live) -> None:
    leader, follower = pty.openpty()
    env = {**os.environ, "LEPO_URL": live.url, "LEPO_API_KEY": live.keys["admin"], "TERM": "xterm", "COLUMNS": "90"}
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # though its parent may not
    command = [sys.executable, "-c", f"{listens}; from app.cli import main; main()", "top", "--every", "0.2"]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=env) as running:
        os.close(follower)
        limit = threading.Timer(90.0, running.kill)  # one that hangs must not hold up those after it
        limit.start()
        seen = bytearray()

        def rates_are_there() -> bool:
            seen.extend(os.read(leader, 65536))
            return b"tokens/s" in seen

        wait_for(rates_are_there, 60.0)
        running.send_signal(signal.SIGINT)
        ended = bytearray()
        try:
            while data := os.read(leader, 65536):
                ended.extend(data)
        except OSError:  # the other end is closed
            pass
        assert running.wait(90) == 0
        limit.cancel()
    os.close(leader)
    assert b"slots busy" in ended, "what was seen last stays on the terminal"
    assert b"Traceback" not in ended
