"""Dassl's config with our methods' options, where `train.py`, YAML files and other trainers may be somebody else's.

MaPLe's and PromptSRC's `extend_cfg` replaces TRAINER.IVLP by a node with their defaults. Their trainer must find it
there, while ours must start from its own. So a config remembers what is merged into a node in the place of one of ours,
and `with_own_options` merges it into our defaults when a trainer of ours is built.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from promptbias.model.method import MethodConfig
from promptbias.utils.errors import UserError
from promptbias.utils.yaml_files import read_yaml

from .config import YACS_ERRORS, explain, find_file

# Attributes of nodes, kept beside yacs' own in `__dict__`, so that clones have them too.
OURS = "promptbias_node"  # this node is one of ours
MERGED = "promptbias_merged"  # {node: {option: value}} that was merged; None: merging was over before we could see it

_options: dict[str, dict[str, Any]] = {}  # of each node of ours, with defaults


class ConfigNode(CfgNode):
    """A yacs config that understands `_BASE_`, and remembers what is merged where a node of ours has been replaced."""

    def merge_from_file(self, cfg_filename: str) -> None:
        """Merge a YAML file and its bases; `configs/...` may be one of those that come with promptbias.

        Raises:
            UserError: as `find_file` and `read_yaml`.
            KeyError, ValueError: as yacs.
        """
        self.merge_from_other_cfg(CfgNode(read_yaml(find_file(cfg_filename))))

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """As yacs."""
        theirs = cfg_other.clone()
        for name, node in theirs.get("TRAINER", {}).items():
            if isinstance(node, CfgNode) and self._is_replaced(name):
                for option, value in list(node.items()):
                    self._remember(name, option, value)
                    if self._is_only_ours(name, option):
                        del node[option]
        super().merge_from_other_cfg(theirs)

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """As yacs."""
        theirs: list[Any] = list(cfg_list[len(cfg_list) // 2 * 2 :])  # a key without value is yacs' to refuse
        for key, value in zip(cfg_list[0::2], cfg_list[1::2]):
            section, _, rest = key.partition(".")
            name, _, option = rest.partition(".")
            if section == "TRAINER" and self._is_replaced(name):
                self._remember(name, option, value)
                if self._is_only_ours(name, option):
                    continue
            theirs += [key, value]
        super().merge_from_list(theirs)

    def _is_replaced(self, name: str) -> bool:
        """Whether TRAINER.<name> stands where a node of ours was."""
        node = self.TRAINER.get(name)
        return name in _options and node is not None and not is_ours(node)

    def _is_only_ours(self, name: str, option: str) -> bool:
        """Whether our method has an option that the node in the place of ours lacks."""
        return option in _options[name] and option not in self.TRAINER[name]

    def _remember(self, name: str, option: str, value: Any) -> None:
        """Keep a value for our method."""
        if self.__dict__[MERGED] is not None:
            self.__dict__[MERGED].setdefault(name, {})[option] = value

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        # yacs turns nested mappings into nodes of the root's class and then demands the class of the node that is
        # there, which is plain CfgNode wherever other code added it.
        return CfgNode._decode_cfg_value(value)


def is_ours(node: Any) -> bool:
    """Whether a node of a config was put there by `add_options` or `with_own_options`."""
    return OURS in getattr(node, "__dict__", ())


def own_node(options: Mapping[str, Any]) -> CfgNode:
    """A node of ours."""
    node = CfgNode(dict(options))
    node.__dict__[OURS] = True
    return node


def adopt(cfg: CfgNode) -> None:
    """Make a config of Dassl's, and so its clones, a ConfigNode that has the nodes of all our methods."""
    if not isinstance(cfg, ConfigNode):
        object.__setattr__(cfg, "__class__", ConfigNode)  # yacs takes plain assignment for a new key
        cfg.__dict__[MERGED] = None if cfg.is_frozen() else {}
    for name, options in _options.items():
        node = cfg.TRAINER.setdefault(name, own_node(options))
        if is_ours(node):
            for option, default in options.items():
                node.setdefault(option, default)


def add_options(cfg: CfgNode, config: type[MethodConfig]) -> None:
    """Add the node of a method, TRAINER.<node>, to Dassl's default config, so that no `extend_cfg` must be edited."""
    _options.setdefault(config.node, {}).update(config.options())
    adopt(cfg)


def with_own_options(cfg: CfgNode, config: type[MethodConfig]) -> CfgNode:
    """The config for a trainer of ours: `cfg`, with the method's own options where a checkout has replaced their node.

    Raises:
        UserError: an option that the method does not have or of another type, or the config was complete before
            promptbias was imported.
    """
    if is_ours(cfg.TRAINER.get(config.node)):
        return cfg
    merged = cfg.__dict__.get(MERGED)
    if merged is None:
        raise UserError(
            f"this config was made before promptbias could add TRAINER.{config.node} to it; "
            "move `import promptbias.plugin` to the top of train.py"
        )
    node, values = own_node(config.options()), merged.get(config.node, {})
    for option in values:
        if option not in node:
            raise UserError(
                f"TRAINER.{config.node}.{option} is an option of this checkout's own trainer; "
                f"ours has {', '.join(sorted(node))}"
            )
    try:
        node.merge_from_list([word for pair in values.items() for word in pair])
    except YACS_ERRORS as error:
        raise UserError(f"TRAINER.{config.node}.{explain(node, error)}") from error
    own = cfg.clone()
    if own.is_frozen():
        node.freeze()
    dict.__setitem__(own.TRAINER, config.node, node)
    return own
