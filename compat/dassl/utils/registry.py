"""Classes that a configuration selects by name."""

from typing import Any

__all__ = ["Registry"]


class Registry:
    """Maps names to classes or functions.

    >>> METHODS = Registry("METHOD")
    >>> @METHODS.register()
    ... class Mine: ...
    >>> METHODS.get("Mine") is Mine
    True
    """

    def __init__(self, name: str):
        self._name = name
        self._obj_map: dict[str, Any] = {}

    def register(self, obj: Any | None = None, force: bool = False) -> Any:
        """Register `obj` under its `__name__`; without `obj`, return a decorator that does.

        Raises:
            KeyError: the name is taken and `force` is False.
        """
        if obj is None:
            return lambda decorated: self.register(decorated, force)
        name = obj.__name__
        if name in self._obj_map and not force:
            raise KeyError(f'"{name}" is already in the {self._name} registry; force=True replaces it')
        self._obj_map[name] = obj
        return obj

    def get(self, name: str) -> Any:
        """The object registered under `name`; KeyError if there is none."""
        if name not in self._obj_map:
            raise KeyError(f'"{name}" is not in the {self._name} registry; known: {", ".join(sorted(self._obj_map))}')
        return self._obj_map[name]

    def registered_names(self) -> list[str]:
        return list(self._obj_map)
