"""Hugging Face PEFT: an adapter with nothing but what was trained, for a CLIPModel."""

import os
import re
from collections.abc import Iterator
from typing import Any

from promptbias.utils.errors import UserError

from . import to_hf
from .source import Source
from .target import Loaded, Target

WITHIN_PARENT = re.compile(r".*layers\.\d+\.|.*_model\.")  # what stands before a layer's name in its block or tower
BASE = "base"  # the stock model, where the hub has none
HUB = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}


def base_on_hub(source: Source) -> str:
    """The hub's name of the CLIP that was tuned; "" if it has none."""
    name = source.backbone
    return name.removeprefix("hf:") if name.startswith("hf:") else HUB.get(name, "")


def adapted(source: Source) -> Any:
    """The stock CLIPModel with a PEFT adapter that holds the difference to the folded one.

    Changed biases of linear layers become BEFT, changed LayerNorms LN tuning.

    Raises:
        UserError: nothing is changed, or something else is.
    """
    import torch
    from peft import BeftConfig, LNTuningConfig, get_peft_model

    base, tuned = to_hf.hf_model(source, source.stock), to_hf.hf_model(source, source.folded)
    before = base.state_dict()
    changed = [key for key, value in tuned.state_dict().items() if not torch.equal(value, before[key])]
    if not changed:
        raise UserError("this model is its stock CLIP, and PEFT has no adapter of nothing; take --to hf")
    layers = [tuned.get_submodule(key.rpartition(".")[0]) for key in changed]
    names = sorted({WITHIN_PARENT.sub("", key.rpartition(".")[0]) for key in changed})
    linear = all(isinstance(layer, torch.nn.Linear) for layer in layers)
    if linear and all(key.endswith(".bias") for key in changed):
        model: Any = get_peft_model(base, BeftConfig(target_modules=names))
        for name, layer in tuned_layers(model, "beft_bias"):
            bias = tuned.get_submodule(name).bias - layer.get_base_layer().bias
            layer.beft_bias["default"].data.copy_(bias)
    elif all(isinstance(layer, torch.nn.LayerNorm) for layer in layers):
        model = get_peft_model(base, LNTuningConfig(target_modules=names))
        for name, layer in tuned_layers(model, "ln_tuning_layers"):
            layer.ln_tuning_layers["default"].load_state_dict(tuned.get_submodule(name).state_dict())
    else:
        raise UserError(f"PEFT has no adapter for what this method changes ({', '.join(names)}); take --to hf")
    return model.eval()


def tuned_layers(model: Any, attribute: str) -> list[tuple[str, Any]]:
    """(name in the base model, layer) of the layers that an adapter has put itself around."""
    return [(name, layer) for name, layer in model.base_model.model.named_modules() if hasattr(layer, attribute)]


class ToPEFT(Target):
    library = "PEFT"
    needs = {"transformers": "transformers", "peft": "peft"}

    def write(self, source: Source, folder: str) -> None:
        model = adapted(source)
        hub = base_on_hub(source)
        for config in model.peft_config.values():
            config.base_model_name_or_path, config.inference_mode = hub or BASE, True
        model.save_pretrained(folder, save_embedding_layers=False)  # or it asks the hub whether the vocabulary changed
        if not hub:
            with to_hf.no_progress_bars():
                to_hf.save(source, source.stock, os.path.join(folder, BASE))

    def load(self, source: Source, folder: str) -> Iterator[Loaded]:
        """The adapter on its base, and merged into it."""
        from peft import PeftModel

        tokens = source.model.text.tokens
        base = to_hf.hf_model(source, source.stock)
        model: Any = PeftModel.from_pretrained(base, folder)
        yield Loaded(lambda pixels: model(pixel_values=pixels, input_ids=tokens).logits_per_image)
        merged = model.merge_and_unload()
        yield Loaded(lambda pixels: merged(pixel_values=pixels, input_ids=tokens).logits_per_image)

    def usage(self, source: Source) -> str:
        return (
            "from peft import PeftModel\nfrom transformers import CLIPModel\n\n"
            f'base = CLIPModel.from_pretrained("{base_on_hub(source) or BASE}")\n'
            'model = PeftModel.from_pretrained(base, ".")  # .merge_and_unload() is a CLIPModel again'
        )
