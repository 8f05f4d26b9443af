"""Readers of json and YAML that refuse a repeated key, of which others keep the last value."""

from __future__ import annotations

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class RepeatedKeyError(ValueError):
    """An object in a json file has a key twice."""


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A json object as a dict, for ``object_pairs_hook``; by itself `json` drops repeated keys.

    Raises:
        RepeatedKeyError: if a key occurs twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        key = next(key for k, (key, _) in enumerate(pairs) if key in dict(pairs[:k]))
        record = f" with id {content['id']!r}" if "id" in content else ""
        raise RepeatedKeyError(f"the key {key!r} occurs twice in one object{record}")
    return content


class UniqueKeyLoader(yaml.SafeLoader):
    """A loader of safe YAML (plain values) that raises a `YAMLError` for a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.tag != _MERGE and str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} occurs twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
