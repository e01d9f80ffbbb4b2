"""A door between the supervisor and a program: tie the process to its parent, drop rights, become the program.

Run by path with `python -I -S`, so it may import the standard library only. Leaves out restarts and logs
(`app.stack.supervisor`). It exists because doing this between fork and exec is unsafe in a process with threads.

Arguments: parent's pid, signal to receive when the parent dies, user id or `-`, and the program with its arguments.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def drop_rights(user: str) -> None:
    """Become the user with this id, and its groups; `-` changes nothing."""
    if user == "-":
        return
    import pwd

    entry = pwd.getpwuid(int(user))
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ["HOME"] = entry.pw_dir


def tie_to_parent(parent: int, signal_number: int) -> None:
    """Ask Linux for a signal when the parent dies; after dropping rights, for that forgets it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("The supervisor is gone already.")


def main() -> None:
    """Read the arguments and become the program."""
    parent, signal_number, user, *program = sys.argv[1:]
    drop_rights(user)
    tie_to_parent(int(parent), int(signal_number))
    os.execvp(program[0], program)  # noqa: S606 - becoming the program is the point


if __name__ == "__main__":
    main()
