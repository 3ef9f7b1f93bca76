"""Puts the generated reference beside the pages that are written by hand."""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from harness.cli import reference

ROOT = "reference"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and a place in the navigation for each."""
    made = config.extra["made"] = reference.pages(config.extra["plugins"])
    tree: dict[str, Any] = {}
    for path in made:
        *folders, name = path.removesuffix(".md").split("/")
        at = tree
        for folder in folders:
            at = at.setdefault(folder.capitalize(), {})
        at[name.replace("_", " ") if not folders else name] = f"{ROOT}/{path}"
    config.nav.append({"Reference": _nav(tree)})
    return config


def _nav(tree: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: _nav(page) if isinstance(page, dict) else page} for name, page in tree.items()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them to what is built."""
    for path, text in config.extra["made"].items():
        files.append(File.generated(config, f"{ROOT}/{path}", content=text))
    return files
