"""Converts submissions of format 1 into the present model, so that their values can still be read.

In format 1 a job measured many quantities of a model at once, a suite referred to its plugins by number, and `judging`
contained the ranking. The conversion does the following. Each cell becomes one cell for each metric; `cost` measures
seconds, memory, steps and notes, and `pictures` the pictures. Quantities get the names in `QUANTITIES` (`rate` becomes
the attack success rate for role harmful, else retention). `policy` becomes `variant`. Notes that raised a flag become
flags. The grid contains its plugins. Ranking, members and tuning come from `judging`, quantities from `metrics`. The
mean over attackers is dropped. Keys are hashes of the old key and the metric; this harness does not reproduce them.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from harness.costs import COST
from harness.metric import VALUES, dump_values
from harness.stage import digest
from harness.track import PICTURES

FORMAT = 1
EXPANDED = 512 * 2**20
"""Bytes of all figures with their coordinates; a submission with more is refused."""
_FIGURES = "records.json"


class Malformed(Exception):
    """The content is no submission of format 1."""


class _New(NamedTuple):
    """What a quantity of format 1 is now: its name, the label of its metric, its title and which a defender wants."""

    name: str
    metric: str
    title: str
    better: Literal["higher", "lower", ""] = ""


QUANTITIES = {
    "rir": _New("rir", "conditioning", "RIR", "higher"),
    "kappa_ratio": _New("kappa_ratio", "conditioning", "κ(θ)/κ(I)"),
    "kappa": _New("kappa", "conditioning", "κ"),
    "rank": _New("rank", "conditioning", "rank"),
    "definition": _New("definition", "definition", "definition", "higher"),
    "definition_a": _New("definition_a", "definition", "(a)", "higher"),
    "definition_b": _New("definition_b", "definition", "(b)", "higher"),
    "definition_c": _New("definition_c", "definition", "(c)", "higher"),
    "best_loss": _New("best_loss", "optimum", "best loss"),
    "best_score": _New("best_score", "optimum", "best score"),
    "loss_gap": _New("excess_loss", "convergence", "excess loss", "higher"),
    "norm_ratio": _New("norm_ratio", "convergence", "norm ratio", "higher"),
    "score": _New("score", "convergence", "held-out score", "lower"),
    "steps_to_gap": _New("steps_to_success", "convergence", "steps to success", "higher"),
    "slow_down": _New("slow_down", "convergence", "slow-down", "higher"),
    "msgr": _New("msgr", "msgr", "MSGR", "higher"),
    "msgr_of_means": _New("msgr_of_means", "msgr", "MSGR (ratio of means)", "higher"),
    "msgr_area": _New("msgr_area", "msgr", "MSGR area", "higher"),
    "mrsgr": _New("mrsgr", "mrsgr", "MRSGR", "higher"),
    "mrsgr_paired": _New("mrsgr_paired", "mrsgr", "MRSGR (paired)", "higher"),
    "similarity": _New("similarity", "similarity", "M"),
    "rate": _New("asr", "attack_success", "ASR", "lower"),
    "rate_area": _New("asr_area", "attack_success", "ASR area", "lower"),
    "rate_allowed": _New("reachable_asr", "released_success", "reachable ASR"),
    "erased_rate": _New("erased_asr", "released_success", "erased ASR"),
    "defense_steps": _New("plugin_steps", COST, "steps"),
    "noted": _New("noted", COST, "noted"),
    "seconds": _New("seconds", COST, "s"),
    "peak_mb": _New("peak_mb", COST, "MiB"),
}
"""By the name in format 1."""
RETAINED = {
    "rate": _New("retention", "attack_success", "retention", "higher"),
    "rate_area": _New("retention_area", "attack_success", "retention area", "higher"),
}
"""The same for the roles benign and kept."""
FLAGS = {
    "floor hit": "floor",
    "denominator is below": "denominator",
    "lower bound": "lower-bound",
    "is not reached in": "lower-bound",
}
"""Words of a note → the flag that they raised."""


def convert(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a submission of format 1 in the present form, to be validated as such; raises `Malformed` if it
    is none, or its figures do not have their digests."""
    try:
        attackers = {grid["name"]: set(grid["attackers"]) for grid in content["suite"]["grids"]}
        kinds = _Kinds(content["kinds"], [cell.get("kind") for cell in content["cells"]])
        cells = [
            converted
            for cell in content["cells"]
            if cell["at"].get("attacker") is None or cell["at"]["attacker"] in attackers[cell["at"]["grid"]]
            for converted in _cells(cell, kinds)
        ]
        sources = [{"name": f"{key[:16]}.py", "text": text, "modules": {}} for key, text in content["sources"].items()]
        return {
            "format": 2,
            "suite": _suite(content),
            "sources": sources,
            "kinds": kinds.places,
            "cells": cells,
            "costs": content["costs"],
            "provenance": content["provenance"],
        }
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


def _suite(content: Mapping[str, Any]) -> dict[str, Any]:
    suite, judging = content["suite"], content["judging"]
    tuning = [of_grid["tuning"] for of_grid in judging.values()]
    if set(judging) != {grid["name"] for grid in suite["grids"]} or any(other != tuning[0] for other in tuning):
        raise ValueError("judging is of other grids, or its tuning differs from grid to grid")
    return {**suite, "tuning": tuning[0], "grids": [_grid(grid, content) for grid in suite["grids"]]}


def _grid(grid: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    judging = content["judging"][grid["name"]]
    protocol = {"success" if name == "gap" else name: value for name, value in grid["protocol"].items()}

    def spec(place: int) -> dict[str, Any]:
        return {name: value for name, value in content["plugins"][_index(place)].items() if name != "file"}

    rows = {
        kind: {label: spec(place) for label, place in grid.get(kind, {}).items()}
        for kind in ("defenses", "attackers", "metrics")
    }
    return {
        **{name: grid[name] for name in ("name", "track", "tasks", "seeds")},
        **rows,
        "protocol": protocol,
        "reference": spec(grid["reference"]),
        "ranking": _ranking(judging["protection"]),
        "members": judging["members"],
        "quantities": list(_quantities(content["metrics"][grid["track"]])),
    }


def _ranking(protection: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if protection is None:
        return None
    kept = [_renamed(figure) for figure in protection["kept"]]
    same = {name: protection[name] for name in ("better", "broken", "resolution")}
    return {"value": _renamed(protection["figure"]), **same, "retention": kept}


def _quantities(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for old, averaging in metrics.items():
        for new in filter(None, (_new(old, "harmful"), RETAINED.get(old))):
            how = {"unit": averaging["unit"] or "", "scale": averaging["scale"], "better": new.better}
            yield {"name": new.name, "title": new.title, "description": f"`{old}` in format 1", **how}


def _new(old: str, role: str | None) -> _New:
    """What a quantity is now. role: of the value."""
    if role != "harmful" and old in RETAINED:
        return RETAINED[old]
    return QUANTITIES.get(old, _New(old, old, old))


def _metric(figure: Mapping[str, Any]) -> str:
    """The label of the metric that measures a figure now."""
    match figure:
        case {"metric": "rate"} if figure.get("step") is None:
            return "released_success"
        case {"metric": "similarity", "role": "kept"}:
            return "kept_similarity"
        case _:
            return _new(figure["metric"], figure.get("role")).metric


def _renamed(figure: Mapping[str, Any]) -> dict[str, Any]:
    """A figure's or selector's fields by their present names, with its flag."""
    fields = {"variant" if name == "policy" else name: value for name, value in figure.items()}
    flags = [flag for words, flag in FLAGS.items() if words in (figure.get("note") or "")]
    new = _new(figure["metric"], figure.get("role"))
    return {**fields, "metric": new.name, **({"flag": flags[0]} if flags else {})}


class _Kinds:
    """The kinds of format 1, each in parts: one for each metric, with its places in the old list."""

    def __init__(self, old: list[list[Mapping[str, Any]]], used: list[int | None]) -> None:
        size = [len(json.dumps(kind)) for kind in old]
        if sum(size[_index(place)] for place in used if place is not None) > EXPANDED:
            raise ValueError(f"its figures, written out, are longer than {EXPANDED >> 20} MiB")
        self.old = old
        self.places: list[list[dict[str, Any]]] = []
        self.parts = [list(self._split(kind)) for kind in old]

    def _split(self, kind: list[Mapping[str, Any]]) -> Iterator[tuple[str, int, list[int]]]:
        """The metric, its kind now and the places of its figures in the old kind."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, figure in enumerate(kind):
            places[_metric(figure)].append(place)
        for metric, chosen in places.items():
            self.places.append([_renamed(kind[place]) for place in chosen])
            yield metric, len(self.places) - 1, chosen


def _cells(cell: Mapping[str, Any], kinds: _Kinds) -> Iterator[dict[str, Any]]:
    """The cells that a cell of format 1 has become, one for each metric."""
    coordinates = {"variant" if name == "policy" else name: value for name, value in cell["at"].items()}

    def converted(metric: str, **fields: Any) -> dict[str, Any]:
        return {"coordinates": {**coordinates, "measured_by": metric}, "key": digest([cell["key"], metric]), **fields}

    if cell.get("failed") is not None:
        yield converted("all metrics", failed=cell["failed"])
        return
    number, numbers = _index(cell["kind"]), cell["values"]
    kind = [{**figure, "value": value} for figure, value in zip(kinds.old[number], numbers, strict=True)]
    if cell["files"][_FIGURES] != hashlib.sha256(dump_values(kind).encode()).hexdigest():
        raise ValueError("the figures of a cell are not those of its digest")
    for metric, place, chosen in kinds.parts[number]:
        values = [numbers[old] for old in chosen]
        text = dump_values(
            [{**fields, "value": value} for fields, value in zip(kinds.places[place], values, strict=True)]
        )
        files = {VALUES: hashlib.sha256(text.encode()).hexdigest()}
        yield converted(metric, kind=place, values=values, files=files)
    if pictures := {name: picture for name, picture in cell["files"].items() if name != _FIGURES}:
        yield converted(PICTURES, files=pictures)


def _index(place: Any) -> int:
    """A place in a list; raises `ValueError` for a negative one."""
    if not isinstance(place, int) or place < 0:
        raise ValueError(f"{place!r:.40} is no place")
    return place
