"""The default configuration, into which YAML files, flags and `KEY VALUE` pairs are merged."""

from yacs.config import CfgNode

from .defaults import _C as cfg_default

__all__ = ["cfg_default", "get_cfg_default", "clean_cfg"]


def get_cfg_default() -> CfgNode:
    """A copy of the defaults that the caller may modify."""
    return cfg_default.clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Keep only the node of `trainer` in `cfg.TRAINER`, so that a printed configuration shows what is in use."""
    for key in set(cfg.TRAINER) - {"NAME", trainer.upper()}:
        del cfg.TRAINER[key]
