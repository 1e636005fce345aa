"""How long the trained biases are, by site and block."""

import numpy as np
import torch

from promptbias.model.adapter import BLOCK_PARAMETERS
from promptbias.model.biases import BLOCK, SiteBiases
from promptbias.model.encoder import Tower


@torch.no_grad()
def bias_norms(adapter: SiteBiases, tower: Tower) -> dict[str, np.ndarray]:
    """|b| of what is trained in the blocks of a branch, and |b| relative to CLIP's own vector in the same place.

    Returns:
        Site ("block", "v", "ln_1.bias", ...) -> (L, 2), NaN in blocks without it. What is in no block is left out.
    """
    found: dict[str, np.ndarray] = {}
    for i, block in enumerate(tower.blocks):
        trained = {} if adapter.bias is None or i >= len(adapter.bias) else {BLOCK: adapter.bias[i]}
        trained |= {site_of(key): b for key, b in adapter.changes.items() if key.endswith(f"@{i}")}
        for site, b in trained.items():
            own = block.get_parameter(PLACES.get(site, site))
            if site in QKV:
                own = own.chunk(3)[QKV.index(site)]
            norms = found.setdefault(site, np.full((len(tower.blocks), 2), np.nan))
            norms[i] = float(b.norm()), float(b.norm() / own.float().norm())
    return found


QKV = "qkv"
PLACES = {BLOCK: "mlp.c_proj.bias", **dict.fromkeys(QKV, "attn.in_proj_bias")}


def site_of(key: str) -> str:
    """What a key of `SiteBiases.changes` in a block is called: "v@3" -> "v", "ln_1_bias@3" -> "ln_1.bias"."""
    name = key.split("@")[0]
    return next((known for known in BLOCK_PARAMETERS if known.replace(".", "_") == name), name)
