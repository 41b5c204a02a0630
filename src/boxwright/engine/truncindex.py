"""Unique id prefixes: a trie in which a branch is only made where two ids differ.

A node is a dict from the next character to a node or, where only one id is left below, to that id itself; so an engine
with one container has one dict, not sixty-four.  Below every node but the root lie at least two ids.
"""

from typing import Union

_Node = dict[str, Union[str, "_Node"]]


class AmbiguousPrefix(Exception):
    """More than one id starts with the prefix."""


class TruncIndex:
    """A set of ids, found by any prefix that only one of them has."""

    def __init__(self) -> None:
        self._root: _Node = {}

    def add(self, id: str) -> None:
        """Add `id` (not empty); adding it twice changes nothing."""
        node, depth = self._root, 0
        while True:
            step = id[depth : depth + 1]  # "" where this id ends and another goes on
            child = node.get(step)
            if child is None:
                node[step] = id
                return
            if child == id:
                return
            depth += 1
            if isinstance(child, str):
                node[step] = child = {child[depth : depth + 1]: child}
            node = child

    def discard(self, id: str) -> None:
        """Remove `id` if it is there, and the branches that only it needed."""
        path: list[tuple[_Node, str]] = []
        child: str | _Node | None = self._root
        while isinstance(child, dict):
            step = id[len(path) : len(path) + 1]
            path.append((child, step))
            child = child.get(step)
        if child != id:
            return
        node, step = path.pop()
        del node[step]
        while path and len(node) == 1 and isinstance(only := next(iter(node.values())), str):
            node, step = path.pop()
            node[step] = only

    def get(self, prefix: str) -> str | None:
        """The only id that starts with `prefix`, or None; raises AmbiguousPrefix.  An id is its own prefix, exactly."""
        node = self._root
        for step in prefix:
            child = node.get(step)
            if child is None:
                return None
            if isinstance(child, str):
                return child if child.startswith(prefix) else None
            node = child
        whole = node.get("")
        if isinstance(whole, str) and whole == prefix:
            return whole
        if len(node) == 1 and isinstance(only := next(iter(node.values())), str):
            return only  # the root of an index of one
        if node:
            raise AmbiguousPrefix(prefix)
        return None
