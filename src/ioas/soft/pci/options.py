"""Options of a device model: declared with a default at the top of its class, checked when a machine is described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar, cast, overload

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

OptionValue = str | int | bool | float
Value = TypeVar("Value", str, int, bool, float)

_SUFFIXES = {"K": 10, "M": 20, "G": 30, "T": 40}
_TRUTH = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}


def parse_integer(text: str) -> int:
    """Read "4096", "0x1000" or "64M" (K, M, G, T: powers of 1024); raises ValueError."""
    shift = _SUFFIXES.get(text[-1:].upper(), 0)
    return int(text[:-1] if shift else text, 0) << shift


def _parse_boolean(text: str) -> bool:
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise ValueError(text) from None


_KINDS: dict[type, tuple[Callable[[str], object], str]] = {
    bool: (_parse_boolean, "on or off"),
    int: (parse_integer, "an integer such as 4096, 0x1000 or 64M"),
    float: (float, "a number"),
    str: (str, "a text"),
}


class Option(Generic[Value]):
    """One option; its type is that of `default`. The value is an attribute of the model.

    `minimum` and `maximum` bound numbers, inclusively; `choices` lists all values there are.
    """

    default: Value
    minimum: Value | None
    maximum: Value | None
    choices: tuple[Value, ...]

    def __init__(
        self,
        default: Value,
        help: str,  # noqa: A002 - what it is called wherever options are declared
        *,
        minimum: Value | None = None,
        maximum: Value | None = None,
        choices: tuple[Value, ...] = (),
    ) -> None:
        self.default = default
        self.help = help
        self.minimum = minimum
        self.maximum = maximum
        self.choices = choices
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Option[Value]: ...

    @overload
    def __get__(self, instance: Function, owner: type) -> Value: ...

    def __get__(self, instance: Function | None, owner: type) -> Option[Value] | Value:
        if instance is None:
            return self
        return cast("Value", instance.option_values[self.name])

    @property
    def expected(self) -> str:
        """What a value looks like, for messages and `ioas devices`."""
        if self.choices:
            return "one of " + ", ".join(str(choice) for choice in self.choices)
        words = _KINDS[type(self.default)][1]
        bounds = [f"at least {_show(self.minimum)}"] if self.minimum is not None else []
        bounds += [f"at most {_show(self.maximum)}"] if self.maximum is not None else []
        return words + "".join(f", {bound}" for bound in bounds)

    def parse(self, given: OptionValue) -> Value:
        """The value of `given`, which is a text (--device) or typed (TOML, Python); raises ValueError."""
        kind = type(self.default)
        value = _KINDS[kind][0](given) if isinstance(given, str) else given
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(given)
        typed: Value = value
        if self.choices and typed not in self.choices:
            raise ValueError(given)
        # Not "typed < minimum": that is false for a float that is no number.
        if self.minimum is not None and not typed >= self.minimum:
            raise ValueError(given)
        if self.maximum is not None and not typed <= self.maximum:
            raise ValueError(given)
        return typed


def _show(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) and value > 0xFFFF else str(value)


AnyOption = Option[str] | Option[int] | Option[bool] | Option[float]


def option_values(
    model: str, declared: Mapping[str, AnyOption], given: Mapping[str, OptionValue]
) -> dict[str, OptionValue]:
    """All values of a model's options: the defaults with `given` laid over them.

    Raises UsageError naming the model, the option and what is allowed.
    """
    values: dict[str, OptionValue] = {name: option.default for name, option in declared.items()}
    for name, text in given.items():
        if name not in declared:
            allowed = ", ".join(declared) or "it has none"
            raise UsageError(f"{model} has no option {name!r} (options: {allowed})")
        try:
            values[name] = declared[name].parse(text)
        except ValueError:
            raise UsageError(f"{model}: {name}={text} is wrong: expected {declared[name].expected}") from None
    return values
