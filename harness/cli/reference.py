"""The reference part of the documentation, as Markdown: a page for each plugin, metric and suite that can be found, the
suite file's schema, and the public names. It is made of what these say of themselves, so it cannot fall behind them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from tabulate import tabulate

from harness import suite as suites
from harness.errors import RunError, UsageError
from harness.leaderboard.flags import FLAGS
from harness.plugin import KINDS, Metric, Plugin, Track
from harness.registry import Catalogue, Entry
from harness.source import module_path

PUBLIC = ("harness", "harness.probe", "harness.diffusion", "harness.kit")
"""The packages whose names are the public face."""


class Described(NamedTuple):
    """A field: its name, type, default (empty: it must be given), bounds and description, as people read them."""

    name: str
    type: str
    default: str
    bounds: str
    description: str


def fields(of: type[Plugin] | type[BaseModel]) -> list[Described]:
    """The fields of a plugin or of a part of a suite file."""
    found = of.__pydantic_fields__
    return [Described(name, _type(info), _default(info), _bounds(info), info.description or "")
            for name, info in found.items()]  # fmt: skip


def _type(info: FieldInfo) -> str:
    return _name(info.annotation)


def _name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(repr(of) for of in arguments)
    if origin is Annotated:
        return _name(arguments[0])
    inner = [_name(of) for of in arguments if of is not ...]
    if origin in (Union, UnionType):
        return " | ".join(inner)
    name = "None" if annotation is NoneType else getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(inner)}]" if inner else name


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return repr(info.get_default(call_default_factory=True, validated_data={}))
    return "" if info.default is PydanticUndefined else repr(info.default)


def _bounds(info: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "at least", "max_length": "at most"}
    return ", ".join(f"{sign} {getattr(limit, side)}" for limit in info.metadata for side, sign in signs.items()
                     if getattr(limit, side, None) is not None)  # fmt: skip


def described(metric: Metric, track: str = "") -> dict[str, str]:
    """What a metric is, in paragraphs by title; track: whose own it is."""
    wanted = {"higher": "A defender wants it high. ", "lower": "A defender wants it low. ", "": ""}[metric.better]
    how = "as logarithms, so geometrically" if metric.scale == "log" else "as they are"
    unit = f" Unit: {metric.unit}." if metric.unit else ""
    told = {
        metric.title: metric.description + ".",
        "Averages": f"{wanted}Figures are averaged {how}.{unit}",
        "Formula": metric.formula,
        "Policy and split": metric.policy,
        "What it cannot tell": metric.limits,
        "Track": track,
    }
    return {title: text for title, text in told.items() if text}


def pages(plugins: Sequence[str | Path] = ()) -> dict[str, str]:
    """The reference's pages by path. plugins: files with further ones."""
    catalogue = Catalogue(plugins)
    made = {f"{kind}s/{entry.name}.md": _plugin(entry) for kind in KINDS for entry in catalogue.all(kind)}
    tracks = [entry.load()() for entry in catalogue.all("track")]
    for track in tracks:
        made[f"tracks/{track.name}.md"] = _track(track)
        for metric in track.metrics:
            paragraphs = _paragraphs(described(metric, track.name))
            made[f"metrics/{track.name}/{metric.name}.md"] = "\n\n".join([f"# {metric.name}", *paragraphs]) + "\n"
    for entry in catalogue.all("suite"):
        made[f"suites/{entry.name}.md"] = _suite(entry)
    made["suite_file.md"] = _schema()
    made["flags.md"] = _flags()
    made["python.md"] = _python()
    return made


def build(out: Path, plugins: Sequence[str | Path] = ()) -> None:
    """Build the whole documentation as HTML into the folder `out`; raises `UsageError` if its builder is not installed,
    `RunError` if there is anything to warn of."""
    try:
        from mkdocs.commands.build import build as build_site
        from mkdocs.config import load_config
        from mkdocs.exceptions import Abort
    except ImportError:
        raise UsageError("the documentation is built by mkdocs-material: pip install 'immunebench[docs]'") from None
    extra = {"plugins": [str(Path(file).resolve()) for file in plugins]}
    config = load_config(str(module_path("docs").parent / "mkdocs.yml"), site_dir=str(out.resolve()), extra=extra)
    try:
        build_site(config)
    except Abort as error:
        raise RunError(f"the documentation was not built: {error}") from None


def _plugin(entry: Entry) -> str:
    cls = entry.load()
    parts = [f"# {entry.name}", f"{entry.kind.capitalize()} of track `{cls.track}`, from `{_origin(entry)}`."]
    parts.append(_docstring(cls))
    if entry.kind == "metric":
        parts += _paragraphs(described(cls.about))
    if module := inspect.getmodule(cls):
        parts.append(_docstring(module))
    if rows := fields(cls):
        parts += ["## Fields", _table([of._asdict() for of in rows])]
    if cls.presets:
        told = [{"preset": name, "fields": ", ".join(f"{key}={of!r}" for key, of in values.items())}
                for name, values in cls.presets.items()]  # fmt: skip
        parts += ["## Presets", _table(told)]
    if cls.deterministic:
        parts.append("It draws no random numbers: one figure stands for all seeds.")
    return "\n\n".join(parts) + "\n"


def _origin(entry: Entry) -> str:
    """Where it comes from, without this machine's paths."""
    return f"{Path(entry.file).name}:{entry.attribute}" if entry.file else entry.origin


def _track(track: Track) -> str:
    rows = [{"metric": f"[{metric.name}](../metrics/{track.name}/{metric.name}.md)", "is": metric.description}
            for metric in track.metrics]  # fmt: skip
    parts = [f"# {track.name}", _docstring(type(track)), "## Metrics", _table(rows)]
    for title, model in {"Tasks": track.task_model, "Protocol": track.protocol_model}.items():
        for of in _nested(model):
            heading = title if of is model else f"{title}: {of.__name__}"
            parts += [f"## {heading}", _docstring(of), _table([field._asdict() for field in fields(of)])]
    return "\n\n".join(parts) + "\n"


def _nested(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A part of a suite file and the parts within it, each once."""
    found = [model]
    for info in model.model_fields.values():
        for of in (info.annotation, *get_args(info.annotation)):
            if isinstance(of, type) and issubclass(of, BaseModel):
                found += _nested(of)
    return list(dict.fromkeys(found))


def _schema() -> str:
    parts = [
        "# Suite files",
        f"A suite is a YAML file of format {suites.FORMAT}, made of these parts. `tasks` and `protocol` are a "
        "track's own: see its page.",
    ]
    for of in _nested(suites.SuiteFile):
        parts += [f"## {of.__name__}", _docstring(of), _table([field._asdict() for field in fields(of)])]
    return "\n\n".join(parts) + "\n"


def _flags() -> str:
    rows = [{"flag": f"`{flag.name}`", "means": flag.meaning, "so": flag.todo} for flag in FLAGS.values()]
    return "\n\n".join(["# Flags", "What a board raises of itself, by row.", _table(rows)]) + "\n"


def _suite(entry: Entry) -> str:
    file = suites.read(Path(str(entry.file)))
    parts = [f"# {file.name}", f"**{file.title}**, version {file.version}, seeds {', '.join(map(str, file.seeds))}."]
    parts += [file.description] if file.description else []
    rows = [{"grid": grid.name, "track": f"[{grid.track}](../tracks/{grid.track}.md)",
             "defenses": ", ".join(grid.defenses), "attackers": ", ".join(grid.attackers)}
            for grid in file.grids]  # fmt: skip
    parts.append(_table(rows))
    if file.bases:
        parts.append(f"On other base models (`--base`): {', '.join(file.bases)}.")
    text = Path(str(entry.file)).read_text(encoding="utf-8")
    return "\n\n".join([*parts, f"```yaml\n{text}```"]) + "\n"


def _python() -> str:
    parts = ["# Python", "What plugins and notebooks may rely on; everything else may change."]
    for package in PUBLIC:
        module = importlib.import_module(package)
        parts += [f"## {package}", _docstring(module)]
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            home = getattr(thing, "__module__", "")
            if inspect.isclass(thing) or inspect.isfunction(thing):
                parts += [f"### {name}", *(_face(name, thing) if home.startswith("harness") else [f"From `{home}`."])]
    return "\n\n".join(parts) + "\n"


def _face(name: str, thing: Any) -> Iterator[str]:
    """Signature and docstring; of a class, of its public methods too."""
    if inspect.isfunction(thing):
        yield f"```text\n{name}{_signature(thing)}\n```"
    yield _docstring(thing)
    for of, value in vars(thing).items() if inspect.isclass(thing) else ():
        function = getattr(value, "__func__", value)
        if not of.startswith("_") and inspect.isfunction(function):
            yield f"```text\n{name}.{of}{_signature(function)}\n```"
            yield _docstring(function)


def _signature(function: Callable[..., Any]) -> str:
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))


def _paragraphs(told: Mapping[str, str]) -> list[str]:
    return [f"**{_plain(title)}**: {_plain(text)}" for title, text in told.items()]


def _docstring(thing: Any) -> str:
    return _plain(inspect.getdoc(thing) or "")


def _plain(text: str) -> str:
    """Markdown that shows a text as it is, but for what stands in backticks."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(of if of.startswith("`") else re.sub(r"([*<\[])", r"\\\1", of) for of in parts)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table, less the columns that are empty."""
    names = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    shown = [{name: " ".join(row[name].split()).replace("|", r"\|") for name in names} for row in rows]
    return tabulate(shown, headers="keys", tablefmt="github", disable_numparse=True)
