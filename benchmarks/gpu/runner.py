"""Sections of a check, one after another, each in a process of its own, with the report on disk after every word of it.

A section that raises, dies or hangs costs itself alone: a device that was left in a bad state goes with its process.
Processes are forked from one that has imported everything and touched no device. Leaves out what is checked.
"""

import faulthandler
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

_PATIENCE = 3.0  # times its estimate after which a section counts as hanging
_GRACE_S = 30.0  # on top of that


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the check."""

    name: str  # in the report and on the screen
    seconds: float  # it is expected to take; it is skipped where less is left
    run: "Callable[[Note], None]"


class Note:
    """What a section says while it runs."""

    def __init__(self, pipe: Connection, section: str, began: float) -> None:
        self.failed: list[str] = []  # names of checks that did not pass
        self._pipe = pipe
        self._section = section
        self._began = began  # when the whole check began, perf_counter seconds

    def tell(self, line: str) -> None:
        """Say how far it is, on stderr."""
        say(self._began, f"{self._section}: {line}")

    def put(self, *path: str, value: Any) -> None:
        """Add a figure to the report, under a path of names."""
        self._pipe.send(("figures", path, value))

    def check(self, name: str, judge: Callable[[], tuple[bool, Mapping[str, Any]]]) -> None:
        """Run one check; one that raises has failed, and the next one runs all the same.

        Args:
            name: of the check.
            judge: says whether it passed, and by what figures.

        """
        passed, found, fault = False, dict[str, Any](), Recorded()
        with fault:
            passed, figures = judge()
            found = dict(figures)
        if fault.text:
            found["traceback"] = fault.text
        if not passed:
            self.failed.append(name)
        self._pipe.send(("checks", (self._section, name), {"passed": passed, **found}))
        self.tell(f"{'passed' if passed else 'FAILED'}: {name} {_short(found)}")


class Recorded:
    """Keeps what a block raised instead of passing it on: a check must go on, whatever a strange device does."""

    text = ""  # the traceback

    def __enter__(self) -> "Recorded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        self.text = "".join(traceback.format_exception(kind, error, trace))
        return True


class Check:
    """The report, and what is left of the budget."""

    def __init__(self, path: Path, report: dict[str, Any], budget_s: float, *, patient: bool = False) -> None:
        """Begin; `patient` is for machines whose pace nobody knows: what is slow does not count as hanging."""
        self.began = time.perf_counter()
        self.report = report | {"checks": {}, "figures": {}, "sections": {}}
        self._path = path
        self._budget_s = budget_s
        self._patient = patient
        path.parent.mkdir(parents=True, exist_ok=True)
        self.save()

    @property
    def left_s(self) -> float:
        """Seconds that may still be spent."""
        return self._budget_s - (time.perf_counter() - self.began)

    def save(self) -> None:
        """Write the report, whole or not at all."""
        written = self._path.with_suffix(".part")
        written.write_text(json.dumps(self.report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        written.replace(self._path)

    def run(self, sections: Sequence[Section]) -> bool:
        """Run all that fit; True when none of them failed."""
        for section in sections:
            if self.left_s < section.seconds:
                self._close(section, {"status": "skipped", "needed_s": section.seconds, "left_s": round(self.left_s)})
            else:
                self._run(section)
        return not any(one["status"] not in {"passed", "skipped"} for one in self.report["sections"].values())

    def _run(self, section: Section) -> None:
        began = time.perf_counter()
        self.report["sections"][section.name] = {"status": "running"}
        self.save()
        fork = multiprocessing.get_context("fork")
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=_child, args=(section, there, self.began), name=section.name)
        process.start()
        there.close()
        patience_s = self.left_s if self._patient else _PATIENCE * section.seconds + _GRACE_S
        end = self._listen(here, min(self.left_s, patience_s))
        if end is None and process.is_alive():
            process.join(1.0)  # it may have closed its pipe on its way out
        hanging = process.is_alive() and end is None
        if hanging:
            _end(process)
        process.join()
        if end is None:
            end = {"status": "hung" if hanging else "died", "exit": process.exitcode}
        self._close(section, {**end, "seconds": round(time.perf_counter() - began, 1)})

    def _listen(self, pipe: Connection, patience_s: float) -> dict[str, Any] | None:
        """Take what a section says into the report; its last word, or None when it never came."""
        until = time.perf_counter() + patience_s
        while pipe.poll(max(until - time.perf_counter(), 0.0)):
            try:
                kind, path, value = pipe.recv()
            except EOFError:
                return None
            if kind == "end":
                return dict(value)
            _put(self.report[kind], path, _plain(value))
            self.save()
        return None

    def _close(self, section: Section, end: dict[str, Any]) -> None:
        self.report["sections"][section.name] = end
        self.save()
        say(self.began, f"== {section.name}: {end['status']} {end.get('seconds', '')}")
        if "traceback" in end:
            say(self.began, end["traceback"])


def say(began: float, line: str) -> None:
    """Print a line with the seconds since the start, on stderr."""
    print(f"[{time.perf_counter() - began:6.1f} s] {line}", file=sys.stderr, flush=True)  # noqa: T201 - progress


def _child(section: Section, pipe: Connection, began: float) -> None:
    """Run a section, in its process."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    note, fault = Note(pipe, section.name, began), Recorded()
    with fault:
        section.run(note)
    end: dict[str, Any] = {"status": "failed" if note.failed or fault.text else "passed"}
    if note.failed:
        end["failed"] = note.failed
    if fault.text:
        end["traceback"] = fault.text
    pipe.send(("end", (), end))
    pipe.close()
    sys.stderr.flush()
    os._exit(0)  # a driver in a bad state may hang in its own clean-up


def _end(process: Any) -> None:
    """Let a hanging section show where it stands, and end it."""
    os.kill(process.pid, signal.SIGUSR1)
    process.join(2.0)
    process.kill()


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *outer, last = path
    for name in outer:
        tree = tree.setdefault(name, {})
    tree[last] = value


def _plain(value: Any) -> Any:
    """As JSON has it: a number that is none becomes a word."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _short(found: Mapping[str, Any]) -> str:
    """Show the last line of a traceback, or the figures."""
    if "traceback" in found:
        return str(found["traceback"]).strip().splitlines()[-1]
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items()
    )
