"""Base of models of plain data, and types of texts in tables, file names and terminals, with their characters."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LABEL = r"^\w[\w .,:;+=()@'°/-]*$"

Name = Annotated[str, Field(pattern=r"^\w[\w .,+=()@-]*$", max_length=100)]
"""Name of a suite or grid, which also names folders and pictures."""
Label = Annotated[str, Field(pattern=LABEL, max_length=300)]
"""Label of a row, task, metric or coordinate."""
Text = Annotated[
    str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$", max_length=20000)
]
"""One line without control characters."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, in hexadecimal")]


class FrozenModel(BaseModel):
    """A pydantic model that refuses unknown fields and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
