"""What a tuning method says of itself: its options, what it trains, what it is called in figures, whether it folds.

Nothing else in this project knows a method by its name.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from promptbias.utils.errors import UserError

from .adapter import Adapters
from .encoder import TextTower, Tower, VisionTower

if TYPE_CHECKING:
    from .tuned_clip import TunedCLIP


@dataclass
class MethodConfig:
    """A tuning method with its options.

    The fields of a subclass are its options: `depth_text` of a method with the node "BIASTUNING" is
    TRAINER.BIASTUNING.DEPTH_TEXT in a configuration.

    Attributes:
        node: the method's node in the configuration, TRAINER.<node>.
        folds: whether the tuned model can become a stock CLIP without further cost in inference.
        uses_template: whether the text is the dataset's template (or TRAINER.<node>.TEMPLATE), not the method's own.
        trains: whether there is anything to train.
        consistency: weight of a term of the loss that keeps the model near the frozen CLIP (see `consistency`); 0: off.
        consistency_of: what it compares, of "image", "text" (features) and "logits".
    """

    node: ClassVar[str]
    folds: ClassVar[bool] = False
    uses_template: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    consistency: float = dataclasses.field(default=0.0, kw_only=True)
    consistency_of: tuple[str, ...] = dataclasses.field(default=("image", "text"), kw_only=True)

    def adapters(self, vision: VisionTower, text: TextTower) -> Adapters:
        """What is trained, attached to these towers.

        Raises:
            UserError: options that do not fit the towers.
        """
        raise NotImplementedError

    def label(self, model: "TunedCLIP") -> str:
        """A few words for legends and reports."""
        return type(self).__name__.removesuffix("Config")

    def template_for(self, template: str) -> str:
        """The text around the class name in the tuned model, where the dataset's (or the caller's) is `template`."""
        return template

    def base_template(self, template: str) -> str:
        """The text of the untouched CLIP where the model's is `template`: another where prompts stand in for words."""
        return template

    def convert_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint of the same method by other code, as the state of our adapters; ours pass as they are."""
        return state

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The keys of the method's node and their defaults; PREC, TEMPLATE and CONSISTENCY are every method's."""
        defaults = {field.name.upper(): field.default for field in cls.option_fields()}
        return {"PREC": "auto", **({"TEMPLATE": ""} if cls.uses_template else {}), **defaults}

    @classmethod
    def option_fields(cls) -> list[dataclasses.Field]:
        """The fields that are options: where nothing is trained, nothing need be kept near the frozen CLIP."""
        return [field for field in dataclasses.fields(cls) if cls.trains or field.name not in EVERY_METHODS]

    @classmethod
    def from_node(cls, node: dict[str, Any]) -> "MethodConfig":
        """From a node of a configuration."""
        return cls(**{field.name: node[field.name.upper()] for field in cls.option_fields()})

    def key(self, option: str) -> str:
        """An option's name as users see it."""
        return f"TRAINER.{self.node}.{option.upper()}"

    def depth(self, option: str, tower: Tower, at_least: int = 0) -> int:
        """A depth in blocks; -1 is all of them.

        Raises:
            UserError: it is not between `at_least` and the number of blocks.
        """
        depth, blocks = getattr(self, option), len(tower.blocks)
        if depth == -1:
            return blocks
        if not at_least <= depth <= blocks:
            raise UserError(
                f"{self.key(option)} is {depth}, but must be between {at_least} and {blocks}, the number of blocks"
            )
        return depth

    def partial_depths(self, vision: Tower, text: Tower) -> list[str]:
        """What to say of depths that leave blocks of these towers out: not of all (-1), none (0) or shallow (1)."""
        said = []
        for branch, tower in (("vision", vision), ("text", text)):
            blocks = len(tower.blocks)
            for field in self.option_fields():
                if field.name in (f"depth_{branch}", f"prompt_depth_{branch}"):
                    depth = getattr(self, field.name)
                    if 1 < depth < blocks:
                        said.append(f"{self.key(field.name)} is {depth}, and the branch has {blocks} blocks (-1: all)")
        return said


EVERY_METHODS = tuple(field.name for field in dataclasses.fields(MethodConfig))
