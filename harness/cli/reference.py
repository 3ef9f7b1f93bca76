"""The reference part of the documentation, as Markdown: a page for each plugin, track and suite, the suite file's
schema, flags, run costs and the public names. It is generated from docstrings and fields, so it is never out of
date."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from tabulate import tabulate

from harness import ensemble as ensembles
from harness import suite_file as suites
from harness.costs import COSTS
from harness.errors import RunError, UsageError
from harness.fields import fields
from harness.files import claim, replacing, user_path
from harness.leaderboard.flags import FLAGS
from harness.metric import Quantity
from harness.plugin import KINDS
from harness.registry import Entry, installed
from harness.track import Track

PUBLIC = ("harness", "harness.probe", "harness.diffusion", "harness.deep", "harness.kit")
"""The packages whose names plugins and notebooks may use."""
DOCUMENTATION = "the documentation"
"""Owner of the files of the documentation, see `harness.files.claim`."""


def describe_quantity(quantity: Quantity) -> dict[str, str]:
    """What a quantity is: paragraphs by title."""
    better = {"higher": "Higher is better for the defender. ", "lower": "Lower is better for the defender. ", "": ""}
    mean = "geometric" if quantity.scale == "log" else "arithmetic"
    unit = f" Unit: {quantity.unit}." if quantity.unit else ""
    paragraphs = {
        quantity.title: f"`{quantity.name}`, {quantity.description}.",
        "Reading": f"{better[quantity.better]}Averages are {mean} means.{unit}",
        "Formula": quantity.formula,
        "Variant and split": quantity.variant,
        "Limits": quantity.limits,
    }
    return {title: text for title, text in paragraphs.items() if text}


def pages(plugins: Sequence[str | Path] = ()) -> dict[str, str]:
    """The pages of the reference by path. plugins: plugin files beside what is installed."""
    registry = installed().with_files(plugins)
    texts = {f"{kind}s/{entry.name}.md": _plugin(entry) for kind in KINDS for entry in registry.all(kind)}
    for entry in registry.all("track"):
        texts[f"tracks/{entry.name}.md"] = _track(entry.load()())
    for entry in registry.all("suite"):
        texts[f"suites/{entry.name}.md"] = _suite(entry)
    for entry in registry.all("ensemble"):
        texts[f"ensembles/{entry.name}.md"] = _ensemble(entry)
    return {
        **texts,
        "suite_file.md": _schema(),
        "flags.md": _flags(),
        "run_costs.md": _run_costs(),
        "python.md": _python(),
    }


def _sources() -> Path:
    """The folder of the pages written by hand: `docs` in a checkout, `documentation` in the installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parent / "docs"
    return checkout if (checkout / "mkdocs.yml").is_file() else package / "documentation"


def build(out: Path, plugins: Sequence[str | Path] = ()) -> None:
    """Build the documentation as HTML into the folder `out`, in place of an earlier one. plugins: plugin files that get
    pages too. Raises `UsageError` if mkdocs is not installed, or if `out` cannot be written or has anything else, and
    `RunError` for any warning."""
    try:
        from mkdocs.commands.build import build as build_site
        from mkdocs.config import load_config
        from mkdocs.exceptions import Abort
    except ImportError:
        raise UsageError("the documentation needs mkdocs-material: pip install 'immunebench[docs]'") from None
    claim(out, DOCUMENTATION)
    extra = {"plugins": [str(user_path(file).resolve()) for file in plugins]}
    with replacing(out, DOCUMENTATION) as new:
        try:
            build_site(load_config(str(_sources() / "mkdocs.yml"), site_dir=str(new.resolve()), extra=extra))
        except Abort as error:
            raise RunError(f"the documentation was not built: {error}") from None


def _plugin(entry: Entry) -> str:
    cls = entry.load()
    parts = [f"# {entry.name}", f"{entry.kind.capitalize()} of track `{cls.track}`, from `{_origin(entry)}`."]
    parts.append(_docstring(cls))
    if entry.kind == "metric":
        parts.append(f"Measured on the {cls.measures} model.")
        parts += [paragraph for quantity in cls.quantities for paragraph in _paragraphs(quantity)]
    if module := inspect.getmodule(cls):
        parts.append(_docstring(module))
    if rows := fields(cls):
        parts += ["## Fields", _table([field._asdict() for field in rows])]
    if cls.presets:
        presets = [
            {"preset": name, "fields": ", ".join(f"{key}={value!r}" for key, value in values.items())}
            for name, values in cls.presets.items()
        ]
        parts += ["## Presets", _table(presets)]
    if cls.deterministic:
        parts.append("Draws no random numbers: one value stands for all seeds.")
    return "\n\n".join(parts) + "\n"


def _origin(entry: Entry) -> str:
    """Where a plugin comes from, without paths of this machine."""
    return f"{Path(entry.file).name}:{entry.attribute}" if entry.file else entry.origin


def _track(track: Track) -> str:
    metrics = ", ".join(f"[{name}](../metrics/{name}.md)" for name in track.metrics)
    parts = [f"# {track.name}", _docstring(type(track))]
    parts += [f"Metrics of every grid: {metrics}."] if metrics else []
    for title, model in {"Tasks": track.task_model, "Protocol": track.protocol_model}.items():
        for part in _nested(model):
            heading = title if part is model else f"{title}: {part.__name__}"
            parts += [f"## {heading}", *_model(part)]
    return "\n\n".join(parts) + "\n"


def _model(model: type[BaseModel]) -> list[str]:
    return [_docstring(model), _table([field._asdict() for field in fields(model)])]


def _nested(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A part of a suite file and the parts within it, each once."""
    models = [model]
    for info in model.model_fields.values():
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                models += _nested(part)
    return list(dict.fromkeys(models))


def _schema() -> str:
    parts = [
        "# Suite files",
        f"A suite is a YAML file of format {suites.FORMAT}, made of these parts. The track defines `tasks` and "
        "`protocol`: see its page.",
    ]
    for model in _nested(suites.SuiteFile):
        parts += [f"## {model.__name__}", *_model(model)]
    parts.append(f"An ensemble, which a grid names in `ensemble`, is a YAML file of format {ensembles.FORMAT}.")
    for model in (ensembles.EnsembleFile, ensembles.Members):
        parts += [f"## {model.__name__}", *_model(model)]
    return "\n\n".join(parts) + "\n"


def _flags() -> str:
    rows = [{"flag": f"`{flag.name}`", "meaning": flag.meaning, "what to do": flag.advice} for flag in FLAGS.values()]
    return "\n\n".join(["# Flags", "Warnings that a board gives about its rows.", _table(rows)]) + "\n"


def _run_costs() -> str:
    paragraphs = [paragraph for quantity in COSTS for paragraph in _paragraphs(quantity)]
    return "\n\n".join(["# Run costs", "The engine measures them on every track.", *paragraphs]) + "\n"


def _suite(entry: Entry) -> str:
    path = Path(str(entry.file))
    file, _ = ensembles.written_out(suites.read(path), path)
    parts = [f"# {file.name}", f"**{file.title}**, version {file.version}, seeds {', '.join(map(str, file.seeds))}."]
    parts += [file.description] if file.description else []
    rows = [
        {
            "grid": grid.name,
            "track": f"[{grid.track}](../tracks/{grid.track}.md)",
            "defenses": ", ".join(grid.defenses),
            "ensemble": grid.ensemble or "",
            "attackers": ", ".join(grid.attackers),
        }
        for grid in file.grids
    ]
    parts.append(_table(rows))
    if file.bases:
        parts.append(f"Other base models (`--base`): {', '.join(file.bases)}.")
    text = path.read_text(encoding="utf-8")
    return "\n\n".join([*parts, f"```yaml\n{text}```"]) + "\n"


def _ensemble(entry: Entry) -> str:
    path = Path(str(entry.file))
    rows = [
        {"track": f"[{track}](../tracks/{track}.md)", "attackers": ", ".join(members.attackers)}
        for track, members in ensembles.read(path).tracks.items()
    ]
    text = path.read_text(encoding="utf-8")
    return "\n\n".join([f"# {entry.name}", "An ensemble of attackers.", _table(rows), f"```yaml\n{text}```"]) + "\n"


def _python() -> str:
    parts = ["# Python", "The names that plugins and notebooks may rely on; everything else may change."]
    for package in PUBLIC:
        module = importlib.import_module(package)
        parts += [f"## {package}", _docstring(module)]
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            home = getattr(thing, "__module__", "")
            if inspect.isclass(thing) or inspect.isfunction(thing):
                parts.append(f"### {name}")
                parts += _interface(name, thing) if home.startswith("harness") else [f"From `{home}`."]
    return "\n\n".join(parts) + "\n"


def _interface(name: str, thing: Any) -> Iterator[str]:
    """Signature and docstring; for a class those of its public methods too."""
    if inspect.isfunction(thing):
        yield f"```text\n{name}{_signature(thing)}\n```"
    yield _docstring(thing)
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        function = getattr(value, "__func__", value)
        if not member.startswith("_") and inspect.isfunction(function):
            yield f"```text\n{name}.{member}{_signature(function)}\n```"
            yield _docstring(function)


def _signature(function: Callable[..., Any]) -> str:
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))


def _paragraphs(quantity: Quantity) -> list[str]:
    return [f"**{_plain(title)}**: {_plain(text)}" for title, text in describe_quantity(quantity).items()]


def _docstring(thing: Any) -> str:
    return _plain(inspect.getdoc(thing) or "")


def _plain(text: str) -> str:
    """A text escaped as Markdown, less what is in backticks."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*<\[])", r"\\\1", part) for part in parts)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table without its empty columns."""
    names = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    escaped = [{name: " ".join(row[name].split()).replace("|", r"\|") for name in names} for row in rows]
    return tabulate(escaped, headers="keys", tablefmt="github", disable_numparse=True)
