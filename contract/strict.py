"""Settings that refuse what they don't know, with errors that name the key and the way out."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and non-finite numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class SettingsError(Exception):
    """Settings that can't be used; the message has one line for each fault."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's own loader keeps the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises SettingsError if the file is missing, isn't YAML, repeats a key, or holds no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: must hold a mapping of settings, found {content!r}")
    return content


def parse(settings: type[S], values: dict[str, Any], source: str) -> S:
    """Validate `values` as `settings`; `source` names where they came from in errors."""
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{source}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Return pydantic's faults as one line each: the key, what is wrong, and the value."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "settings"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
        elif isinstance(fault["input"], dict):
            lines.append(f"{key}: {fault['msg']}")
        else:
            lines.append(f"{key}: {fault['msg']} (got {fault['input']!r})")
    return "\n  ".join(lines)
