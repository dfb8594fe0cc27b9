"""A signal that comes before its thread's call has been received: the call is made again, whatever the handler's flags.

The kernel ends the wait of a call that nobody has received yet with ERESTARTSYS, so that after the handler the call is
repeated - or fails with EINTR, if the handler was installed without SA_RESTART. No call that we serve ever waits so on
Linux. A tracee stops before the kernel decides (arch_do_signal_or_restart, 7.3), and then the call can be taken back:
the thread makes it anew when the handler has returned.
"""

from __future__ import annotations

from ioas.run import ptrace
from ioas.run.filter import IOCTL_TYPE
from ioas.run.kernel import Nr
from ioas.run.mmio.registers import MASK64, RAX, RIP, RSI

_ERESTARTSYS = 512
_CALL = 15
"""orig_rax: the number of the call that the thread is in."""
_NONE = MASK64
_INSTRUCTION = 2
"""Bytes of `syscall`."""
_NEVER_INTERRUPTED = frozenset(
    (
        *(Nr.PREAD64, Nr.PWRITE64, Nr.PREADV, Nr.PWRITEV, Nr.PREADV2, Nr.PWRITEV2, Nr.LSEEK, Nr.MMAP),
        *(Nr.FSTAT, Nr.STAT, Nr.LSTAT, Nr.NEWFSTATAT, Nr.STATX, Nr.DUP, Nr.ACCESS, Nr.FACCESSAT, Nr.FACCESSAT2),
        *(Nr.READLINK, Nr.READLINKAT, Nr.GETXATTR, Nr.LGETXATTR, Nr.LISTXATTR, Nr.LLISTXATTR),
    )
)
"""Calls that are handed over and that Linux does not interrupt on any file that programs use them on."""


def take_back_call(thread: int) -> None:
    """Have `thread`, which stands before a signal is delivered, repeat a call of ours that the signal interrupted.

    Raises OSError: it is gone.
    """
    words = ptrace.Registers()
    ptrace.get_registers(thread, words)
    number = words[_CALL]
    if words[RAX] != MASK64 + 1 - _ERESTARTSYS:
        return
    if number in _NEVER_INTERRUPTED or (number == Nr.IOCTL and words[RSI] & 0xFF00 == IOCTL_TYPE):
        words[RAX], words[_CALL] = number, _NONE
        words[RIP] -= _INSTRUCTION
        ptrace.set_registers(thread, words)
