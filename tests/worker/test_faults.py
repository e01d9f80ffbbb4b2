"""Which errors are a shortage that may pass by itself: learning is not frozen for those."""

import pytest
from sqlalchemy.exc import StatementError

from worker.faults import environmental


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        StatementError("(builtins.MemoryError)", "UPDATE jobs", {}, MemoryError()),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_want_of_memory_is_a_shortage_in_whose_words_ever(error: Exception) -> None:
    assert environmental(error)


@pytest.mark.parametrize("error", [RuntimeError("sizes do not match"), ValueError("not enough memory of it")])
def test_a_bug_is_none(error: Exception) -> None:
    assert not environmental(error)
