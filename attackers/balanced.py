"""An attacker that balances the factors of the U-Net first, and so undoes any rescaling of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn import functional

from attackers.lora import LoRA
from harness.diffusion import TextToImage, factors


class BalancedLoRA(LoRA):
    """LoRA on a U-Net whose factors are balanced by singular value decompositions (a control of this harness).

    Of queries and keys, values and outputs, and the halves of GEGLU's value path the U-Net computes only products; so
    the balanced factors are the same however a defense has split the products (see the defense `gauge`).
    """

    name = "balanced"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = LoRA.presets

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """The weights of new adapters of the balanced model."""
        for pair in factors(model.unet):
            pair.write(*balance(*pair.read()))
        return super().weights(model)

    def save(self, model: TextToImage, folder: Path) -> None:
        """Save the whole pipeline, with the adapters merged into its weights."""
        whole = model.copy()
        whole.unet.fuse_lora()
        whole.unet.unload_lora()
        whole.pipeline.save_pretrained(folder)


def balance(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Balanced factors with the same product: with the singular value decomposition LᵀR = UΣVᵀ they are Σ^½Uᵀ and
    Σ^½Vᵀ. They depend on the product only, so they are the same for all factors of one product.

    left, right: L and R, (groups, width, columns). The signs are such that the entry of each row of L that is largest
    in absolute value is positive.
    """
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left.mT), torch.linalg.qr(right.mT)
    u, singular, v = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    root = singular.sqrt()[..., None]
    new_left, new_right = root * (q_left @ u).mT, root * (q_right @ v.mT).mT
    sign = new_left.gather(-1, new_left.abs().argmax(-1, keepdim=True)).sign()
    rows = (0, 0, 0, left.shape[-2] - new_left.shape[-2])  # fewer columns than rows leave rows of zeros
    return functional.pad(sign * new_left, rows), functional.pad(sign * new_right, rows)
