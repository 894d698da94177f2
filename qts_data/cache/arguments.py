"""Binds the arguments of a decorated method for its key function."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["key_names"]

_KINDS: Final = inspect.Parameter
_PLACED: Final = (_KINDS.POSITIONAL_ONLY, _KINDS.POSITIONAL_OR_KEYWORD)


def key_names(
    method: Callable[..., Any], key: Callable[..., Any]
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[str, ...]]:
    """Make the function that turns a call's arguments into the names of its key.

    The key function gets bound arguments: with their defaults, in the method's order, whether the caller passed them by
    place or by name. If its parameters are named like the method's, it gets those. Otherwise it gets as many as it
    takes, in the method's order.

    Args:
        method: The decorated method; its first parameter is self.
        key: Returns a text, or a tuple of texts.

    Raises:
        ConfigurationError: The key function needs more arguments than the method has.
        ConfigurationError: The key function wants arguments that the method does not have.
    """
    parameters = list(inspect.signature(method).parameters.values())[1:]
    simple = all(one.kind in _PLACED for one in parameters)
    chosen = _chosen(method, key, parameters) if simple else None
    names = tuple(one.name for one in parameters)
    defaults = {one.name: one.default for one in parameters if one.default is not _KINDS.empty}
    count = len(names)
    in_order = chosen == tuple(range(count))

    def placed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        if kwargs or len(args) != count:
            if len(args) > count or not kwargs.keys() <= set(names[len(args) :]):
                _refuse(method, args, kwargs)
            bound = list(args)
            for name in names[len(args) :]:
                if name in kwargs:
                    bound.append(kwargs[name])
                elif name in defaults:
                    bound.append(defaults[name])
                else:
                    _refuse(method, args, kwargs)
            args = tuple(bound)
        found = key(*args) if in_order else key(*(args[place] for place in chosen or ()))
        return (found,) if found.__class__ is str else _as_names(method, found)

    def bound_by_signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        found = inspect.signature(method).bind(None, *args, **kwargs)
        found.apply_defaults()
        return _as_names(method, key(*found.args[1:], **found.kwargs))

    return placed if simple else bound_by_signature


def _chosen(
    method: Callable[..., Any], key: Callable[..., Any], parameters: list[inspect.Parameter]
) -> tuple[int, ...]:
    """Return the places of the method's parameters that the key function gets."""
    every = tuple(range(len(parameters)))
    try:
        wanted = list(inspect.signature(key).parameters.values())
    except (TypeError, ValueError):
        return every  # a builtin such as str
    if any(one.kind not in _PLACED for one in wanted):
        return every
    places = {one.name: place for place, one in enumerate(parameters)}
    if all(one.name in places for one in wanted):
        return tuple(places[one.name] for one in wanted)
    least = sum(one.default is _KINDS.empty for one in wanted)
    if least > len(parameters):
        raise ConfigurationError(
            f"the key function of {method.__qualname__} wants {least} arguments, and the method has {len(parameters)}"
        )
    return every[: len(wanted)]


def _as_names(method: Callable[..., Any], names: Any) -> tuple[str, ...]:
    if isinstance(names, str):
        return (str(names),)
    if isinstance(names, tuple) and names and all(isinstance(one, str) for one in names):
        return names
    raise ConfigurationError(
        f"the key function of {method.__qualname__} returns a text or a tuple of texts, not {names!r:.60}"
    )


def _refuse(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise the `TypeError` that the method itself would raise."""
    inspect.signature(method).bind(None, *args, **kwargs)
