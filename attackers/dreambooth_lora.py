"""DreamBooth that trains low-rank adapters instead of the whole U-Net."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from attackers.dreambooth import DreamBooth
from attackers.lora import LoRA


class DreamBoothLoRA(LoRA, DreamBooth):
    """DreamBooth on low-rank adapters (Ruiz et al., 2023; Hu et al., 2022), one of the attacks in MIMA."""

    name = "dreambooth_lora"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"lr": 7e-3, "batch_size": 8}}

    lr: float = Field(
        5e-4,
        gt=0,
        description="AdamW's step size",
        json_schema_extra={"search": {"low": 1e-4, "high": 3e-2, "log": True}},
    )
    batch_size: int = Field(
        1, ge=1, description="pictures in a step", json_schema_extra={"search": {"choices": [1, 4, 8, 16]}}
    )
