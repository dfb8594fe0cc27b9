"""A PCI function: what a device model is written against, and what soft.vfio drives.

A model is a class: identity, capabilities, BARs and options declared at its top, registers as typed fields, `reset`.
The machine (`Topology.plug`) gives it an address, a requester behind an IOMMU, and time. `ioas.devices.edu` is the
example to read.

One lock per function (`lock`) is held whenever code of the model runs, in whatever thread: register accesses, timer
callbacks, resets. A model needs no locks of its own, and must not wait in its code. What it raises goes no further
than here (`failure`). The order of locks is: the host's for object state (`System.lock`), a root port's, a function's.
So nothing that a model calls - interrupt callbacks, listeners of incidents and faults - may take one of the former.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ioas.soft.pci import access, errors, header
from ioas.soft.pci.bars import ROM_INDEX, Bar, Rom
from ioas.soft.pci.capabilities import Capability, Pcie, base as capability_list
from ioas.soft.pci.config import CONFIG_SIZE, CONVENTIONAL_SIZE, Config
from ioas.soft.pci.declaration import Declaration, declaration_of
from ioas.soft.pci.dma import Dma
from ioas.soft.pci.failure import Failure, Guard, name_of
from ioas.soft.pci.interrupts import Interrupts
from ioas.soft.pci.migration import Migration
from ioas.soft.pci.model_timers import ModelTimer, Standstill
from ioas.soft.pci.options import AnyOption, OptionValue, option_values
from ioas.soft.pci.placed import Placed
from ioas.soft.pci.resets import ResetMethod, carry_out, methods_of, power_state

if TYPE_CHECKING:
    from typing import Self

    from ioas.soft.pci.errors import ErrorKind
    from ioas.soft.pci.ram import Ram, RamPages
    from ioas.soft.pci.timers import Timer
    from ioas.soft.pci.virtual import VirtualFunction

C = TypeVar("C", bound=Capability)
_WORD = 8


class Function(Placed):
    """One PCI function. Subclasses are device models."""

    vendor_id: ClassVar[int] = 0
    device_id: ClassVar[int] = 0
    revision_id: ClassVar[int] = 0
    class_code: ClassVar[int] = 0
    """24 bits: base class, subclass, programming interface."""
    subsystem_vendor_id: ClassVar[int] = 0
    subsystem_id: ClassVar[int] = 0
    page_requests: bool = False
    """Whether it asks for pages that are missing (PRI), by `Dma.when_present`. Set before it is plugged."""
    interrupt_pin: ClassVar[int] = 0
    """1 to 4 for INTA to INTD; 0: no INTx."""
    capabilities: ClassVar[tuple[Capability, ...]] = ()
    rom: ClassVar[Rom | None] = None
    migrates: Migration | None = None
    """How its state can be taken elsewhere; None: it cannot."""
    has_command_memory: ClassVar[bool] = True
    """Whether the command register turns memory decoding on and off: that of virtual functions does not."""

    lock: threading.RLock
    config: Config
    """Configuration space."""
    interrupts: Interrupts
    dma: Dma
    """The way to memory."""
    guard: Guard
    """What stands between the model's code and those who call it."""
    option_values: dict[str, OptionValue]
    register_values: dict[str, int]
    rams: Sequence[Ram]
    """The BARs, and parts of them, that are memory."""
    ram_pages: dict[str, RamPages]
    standstill: Standstill
    """Whether it does anything of its own accord."""
    running_timers: list[ModelTimer]
    """What `after` has under way; each takes itself out."""
    in_use: bool
    """Whether its driver keeps it awake, as run time power management shows it."""
    on_error: list[Callable[[], None]]
    """Called when a function of the bus has reported an error, with this one's lock held."""
    virtual_functions: list[VirtualFunction]
    """Those that have appeared, of a function with SR-IOV."""

    _declared: ClassVar[Declaration] = Declaration()

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        cls._declared = declaration_of(cls, Function)

    def __init__(self, /, **options: OptionValue) -> None:
        """Raises UsageError naming the model, the option and what is allowed."""
        super().__init__()
        self.lock = self._make_lock()
        self.option_values = option_values(self.model or type(self).__name__, self._declared.options, options)
        self.register_values = {each.name: each.initial for each in self._declared.registers}
        self.rams, self.ram_pages = self._declared.rams, {}
        self.guard = Guard(self)
        self.standstill = Standstill(self)
        size = CONFIG_SIZE if self._is_express() else CONVENTIONAL_SIZE
        self.config = Config(size, self.lock, self.guard.run)
        self._enables, self._enables_of = 0, -1
        self.dma = Dma(self)
        self.running_timers = []
        self.virtual_functions = []
        self.on_error = []
        self.in_use = False
        self._fill_header()
        self._capabilities = capability_list.link(self, self.capabilities)
        self.interrupts = Interrupts(self)

    @classmethod
    def create(cls, options: Mapping[str, OptionValue]) -> Self:
        """Build the model from --device's or a machine file's options; raises UsageError as `__init__` does.

        The options are checked before, for a model may have an `__init__` that takes none.
        """
        option_values(cls.model or cls.__name__, cls._declared.options, options)
        return cls(**options)

    @classmethod
    def options(cls) -> Mapping[str, AnyOption]:
        """The options that the model declares, by name."""
        return cls._declared.options

    @property
    def declared(self) -> Declaration:
        """What the model's class declares."""
        return self._declared

    @classmethod
    def declared_bars(cls) -> Sequence[Bar | None]:
        """As `bars`, of the class."""
        return cls._declared.bars

    def _make_lock(self) -> threading.RLock:
        return threading.RLock()

    @classmethod
    def _is_express(cls) -> bool:
        return any(isinstance(each, Pcie) for each in cls.capabilities)

    def _fill_header(self) -> None:
        self._declare_identity()
        self._declare_specific_header()
        if self.interrupt_pin:
            self.config.declare(header.INTERRUPT_PIN, 1, self.interrupt_pin)
        if self.capabilities:
            self.config.declare(header.CAPABILITIES, 1, 0x40 if any(not c.extended for c in self.capabilities) else 0)
            self.config.declare(header.STATUS, 2, header.STATUS_CAPABILITIES, clearable=header.STATUS_ERRORS)
        self._install_bars()
        self.config.watch(header.COMMAND, 2, lambda: self.interrupts.reconsider())

    _header_kind: ClassVar[int] = 0

    def _declare_identity(self) -> None:
        header.declare_common(
            self.config, self.vendor_id, self.device_id, self.revision_id, self.class_code, self._header_kind
        )

    def _install_bars(self) -> None:
        for bar in [*self.bars, self.rom]:
            if bar is not None:
                bar.install(self.config)

    def _declare_specific_header(self) -> None:
        header.declare_type0(self.config, self.subsystem_vendor_id, self.subsystem_id)

    # What the machine and the drivers of the function use.

    @property
    def bars(self) -> Sequence[Bar | None]:
        """Six entries; None where there is no BAR (and for the upper half of a mem64 one)."""
        return self._declared.bars

    def bar_address(self, index: int) -> int:
        """The bus address of BAR `index` (6: the ROM) now. Raises ValueError when there is none."""
        return self.bar(index).address(self.config)

    def bar(self, index: int) -> Bar:
        """BAR `index` (6: the ROM). Raises ValueError when there is none."""
        bars = self._declared.bars
        bar = bars[index] if 0 <= index < ROM_INDEX else self.rom if index == ROM_INDEX else None
        if bar is None:
            raise ValueError(f"{self} has no BAR {index}")
        return bar

    def find(self, kind: type[C]) -> tuple[C, int] | None:
        """The capability of class `kind` and its offset in configuration space; None when the function lacks it."""
        found = self._capabilities.get(kind)
        if found is None or not isinstance(found[0], kind):
            return None
        return found[0], found[1]

    @property
    def failure(self) -> Failure | None:
        """Why the function is dead: what its model raised; None as long as it lives."""
        return self.guard.failure

    def _enabled(self, bit: int) -> bool:
        version = self.config.version
        if version != self._enables_of:
            self._enables = self.config.get(header.COMMAND, 2) if power_state(self) == 0 else 0
            self._enables_of = version
        return bool(self._enables & bit) and self.guard.failure is None

    @property
    def memory_enabled(self) -> bool:
        """Memory BARs answer: the command register's bit 1 is set and the function is in D0."""
        return self._enabled(header.COMMAND_MEMORY)

    @property
    def io_enabled(self) -> bool:
        """I/O BARs answer: the command register's bit 0 is set and the function is in D0."""
        return self._enabled(header.COMMAND_IO)

    @property
    def master_enabled(self) -> bool:
        """DMA and messages go out: the command register's bit 2 is set and the function is in D0."""
        return self._enabled(header.COMMAND_MASTER)

    def bar_read(self, index: int, offset: int, length: int) -> bytes:
        """A memory or I/O read of 1, 2, 4 or 8 bytes, or a vector of up to 64, at `offset` of BAR `index` (6: the ROM).

        All ones when decoding is off or nothing answers. Raises ValueError when there is no such BAR.
        """
        return access.read(self, index, offset, length)

    def bar_write(self, index: int, offset: int, data: bytes) -> None:
        """A memory or I/O write of 1, 2, 4, 8 or up to 64 bytes; goes nowhere when decoding is off or nothing answers.

        Raises ValueError when there is no such BAR.
        """
        access.write(self, index, offset, data)

    @property
    def reset_methods(self) -> Sequence[ResetMethod]:
        """What the kernel finds, in its order: "flr", "pm", "bus"; empty when nothing resets this function alone."""
        return methods_of(self)

    def reset_by(self, method: ResetMethod | None = None) -> None:
        """Reset the function by one of `reset_methods` (default: the first), and put configuration space back.

        Follows pci_reset_function_locked (7.3): configuration is saved, decoding and mastering are turned off, the
        function is reset, configuration is restored. Raises ValueError for a method that the function does not have.
        """
        carry_out(self, method)

    def reinitialise(self) -> None:
        """What a reset does inside of the function: configuration space, interrupts and the model as after power-on.

        A dead function lives again, unless its model fails once more.
        """
        with self.lock:
            self.guard.revive()
            self.standstill.change("running")
            self.config.reset()
            self.interrupts.reset()
            self.guard.run("a reset", self.reset)

    # What models use, and what they replace.

    def read_window(self, bar: int, offset: int, length: int) -> bytes | None:
        """What software reads from a BAR: here, from the declared registers; None when nothing answers.

        A read of more than 8 bytes, as vector instructions make, is taken apart into words of 8.
        """
        if length > _WORD:
            return b"".join(
                self.read_window(bar, at, _WORD) or b"\xff" * _WORD for at in range(offset, offset + length, _WORD)
            )
        register = self._declared.map.get((bar, offset))
        if register is None or not register.answers(offset, length):
            return None
        return register.read(self, offset, length)

    def write_window(self, bar: int, offset: int, data: bytes) -> bool:
        """What software writes to a BAR: here, to the declared registers; False when nothing answers.

        A write of more than 8 bytes is taken apart into words of 8.
        """
        if len(data) > _WORD:
            words = range(0, len(data), _WORD)
            answers = [self.write_window(bar, offset + at, data[at : at + _WORD]) for at in words]
            return any(answers)
        register = self._declared.map.get((bar, offset))
        if register is None or not register.answers(offset, len(data)):
            return False
        register.write(self, offset, data)
        return True

    def interrupt(self, vector: int = 0) -> None:
        """Send message `vector` when MSI-X or MSI is on, else assert INTx until `deassert`."""
        self.interrupts.raise_vector(vector)

    def deassert(self) -> None:
        """Take the INTx level back."""
        self.interrupts.drive(False)

    def report_error(self, kind: ErrorKind = "completion timeout") -> None:
        """Report an uncorrectable error (AER): whoever drives a function of this bus hears of it, soon."""
        errors.report(self, kind)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run `action` once after `seconds`, with the function's lock held, on the machine's timer thread.

        Cancelling is exact for model code: after `cancel()` the action does not run.
        """
        return self.schedule(seconds, action, f"a timer callback ({name_of(action)})")

    def schedule(self, seconds: float, action: Callable[[], None], during: str) -> ModelTimer:
        """As `after`; `during` is what a failure of the action is said to have happened in."""
        with self.lock:
            timer = ModelTimer(self, action, during)
            self.running_timers.append(timer)
            timer.start(seconds)
        return timer

    def reset(self) -> None:
        """Put the device's own state back: here, registers take their reset values and timers are cancelled."""
        self.register_values.update((each.name, each.initial) for each in self._declared.registers)
        self.cancel_timers()

    def cancel_timers(self) -> None:
        """Cancel everything that `after` has under way."""
        for timer in tuple(self.running_timers):
            timer.cancel()

    def save(self) -> bytes:
        """What the model holds besides registers, memory and timers, for `load` elsewhere; see `Migration`."""
        return b""

    def load(self, state: bytes) -> None:
        """Take what `save` gave. Registers and memory have been put back, timers come after. What it raises refuses."""
