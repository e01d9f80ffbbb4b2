"""The committed table is of the clients as pinned. A file of its own: a run writes the table after its tests."""

import re

from tests.clients.conftest import CLIENTS, OURS, program
from tests.clients.table import OWN_PINS, PAGE, PINS, Report, page, pinned


def test_the_committed_table_is_of_these_clients_at_the_pinned_versions() -> None:
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    expected = []
    for client in CLIENTS:
        package = program(client).PACKAGE
        version = pinned(package, OWN_PINS if client in OURS else PINS)
        expected += [(package, version, what, "ok") for what in program(client).DOINGS]
    header = ("client", "version", "what was done", "result")
    assert [row for row in rows if row != header] == expected, "run: make clients"


def test_what_failed_is_a_row_too() -> None:
    told = page({"a": Report("1.0", {"chat": "ok", "tools": "Error: a | b\nin two lines"})})
    assert told.endswith("| a | 1.0 | chat | ok |\n| a | 1.0 | tools | Error: a / b in two lines |\n")
