"""The tasks of a grid of deep networks: an extractor, a benign data set to keep and a harmful one to prevent."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, model_validator

import harness.track
from harness.errors import nearest
from harness.files import user_path

DATA = ("mnist5k", "fashion_mnist", "digits8")
"""Names of the data sets that come with the harness and its packages."""
LOCAL = ("cars", "country211", "imagenet")
"""Names of data sets of torchvision, which are in folders of this machine."""
EXTRACTORS = ("efficientnet_lite0", "resnet18_small", "vit_small")
"""Names of the extractors of this harness; all others are folders or names of timm."""


class Task(harness.track.Task):
    """An extractor whose tail is immunized, and the two classification tasks."""

    extractor: str = Field(
        description=f"{', '.join(EXTRACTORS)}, a folder with a timm model's config.json and model.safetensors, or the "
        "name of a timm model with weights on the hub"
    )
    benign: str = Field(
        description=f"data set to keep: {', '.join(DATA)}; {', '.join(LOCAL)}, with `roots`; or a folder with a folder "
        "of pictures for each class in `train` and in `test`"
    )
    harmful: str = Field(description="data set to prevent, as for `benign`")
    other: str | None = Field(
        "digits8", description="a third data set, which no defense receives; null: none", min_length=1
    )
    roots: dict[str, str] = Field(
        {}, description="by name of a data set of torchvision, the folder on this machine that torchvision calls root"
    )
    size: int = Field(64, ge=8, le=1024, description="side to which pictures are resized, in pixels")
    per_class: int | None = Field(
        None, ge=5, description="largest number of pictures of each class in each split, the first ones; null: all"
    )

    @model_validator(mode="after")
    def _found(self, info: ValidationInfo) -> Task:
        base = (info.context or {}).get("folder", Path())
        roots = {name: user_path(root, base).resolve() for name, root in self.roots.items()}
        for name, root in roots.items():
            if name not in LOCAL:
                raise ValueError(f"roots: torchvision's '{name}' is not known here; {nearest(name, list(LOCAL))}")
            if not root.is_dir():
                raise ValueError(f"roots: there is no folder {root} with torchvision's {name}")
        object.__setattr__(self, "roots", {name: str(root) for name, root in roots.items()})
        for name in ("benign", "harmful", "other"):
            data = getattr(self, name)
            if data is None or data in DATA or data in roots:
                continue
            folder = user_path(data, base).resolve()
            if data in LOCAL and not folder.is_dir():
                raise ValueError(f"{name}: write the folder of torchvision's {data} too: `roots: {{{data}: FOLDER}}`")
            if not folder.is_dir():
                known = [*DATA, *LOCAL]
                raise ValueError(f"{name}: '{data}' is neither a data set nor a folder; {nearest(data, known)}")
            object.__setattr__(self, name, str(folder))
        if self.extractor not in EXTRACTORS and (folder := user_path(self.extractor, base).resolve()).is_dir():
            object.__setattr__(self, "extractor", str(folder))
        if self.benign == self.harmful:
            raise ValueError(f"benign and harmful are the same data set, {self.benign}")
        return self

    @property
    def label(self) -> str:
        """Name of the task in records, without the paths of folders."""
        return f"{Path(self.extractor).name} {Path(self.benign).name} {Path(self.harmful).name}"

    def source(self, data: str) -> str:
        """The data set `data` of this task with its place: a data set of torchvision as NAME=FOLDER."""
        return f"{data}={self.roots[data]}" if data in self.roots else data
