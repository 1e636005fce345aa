"""Hugging Face transformers: a CLIPModel folder with processor and tokenizer, as the zero-shot pipeline takes it."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from promptbias.model.loading import import_clip

from .source import Source
from .target import Loaded, Target

# OpenAI's names -> transformers', in a block and outside of the blocks; in_proj becomes three.
IN_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OUTER = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def converted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of OpenAI's under transformers' names."""
    found = {}
    for key, value in state.items():
        if key in OUTER:
            found[OUTER[key]] = value
        elif key in TRANSPOSED:
            found[TRANSPOSED[key]] = value.t().contiguous()
        else:
            branch, _, rest = key.partition("transformer.resblocks.")
            i, _, name = rest.partition(".")
            prefix = f"{'vision' if branch else 'text'}_model.encoder.layers.{i}"
            layer, _, kind = name.rpartition(".")
            if layer == "attn":
                for part, chunk in zip("qkv", value.chunk(3)):
                    found[f"{prefix}.self_attn.{part}_proj.{kind.removeprefix('in_proj_')}"] = chunk.clone()
            else:
                found[f"{prefix}.{IN_BLOCK[layer]}.{kind}"] = value
    return found


def configuration(source: Source) -> Any:
    """The CLIPConfig of the architecture, with the class names as labels."""
    from transformers import CLIPConfig

    clip, model = source.stock, source.model

    def of(tower: Any) -> dict[str, Any]:
        return {
            "hidden_size": tower.width,
            "intermediate_size": tower.blocks[0].mlp.c_fc.out_features,
            "num_hidden_layers": len(tower.blocks),
            "num_attention_heads": tower.heads,
            "hidden_act": "quick_gelu" if source.quick_gelu else "gelu",
            "layer_norm_eps": tower.blocks[0].ln_1.eps,
        }

    vision = of(model.vision)
    vision |= {"image_size": source.image_input.size, "patch_size": clip.visual.conv1.kernel_size[0]}
    text = of(model.text)
    text |= {"vocab_size": len(clip.token_embedding.weight), "max_position_embeddings": model.context_length}
    joint = clip.text_projection.shape[1]
    labels = dict(enumerate(source.labels))
    return CLIPConfig(
        vision_config={**vision, "projection_dim": joint},
        text_config={**text, "projection_dim": joint},
        projection_dim=joint,
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
    )


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing some for what takes a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def hf_model(source: Source, clip: Any) -> Any:
    """A stock CLIP as a CLIPModel, in eval mode."""
    from transformers import CLIPModel

    model = CLIPModel(configuration(source)).eval().requires_grad_(False)
    model.load_state_dict(converted(clip.state_dict()))
    return model


def save(source: Source, clip: Any, folder: str) -> None:
    """A stock CLIP with its processor and tokenizer."""
    from transformers import CLIPImageProcessor

    hf_model(source, clip).save_pretrained(folder)
    p = source.image_input
    CLIPImageProcessor(
        size={"shortest_edge": p.size},
        crop_size={"height": p.size, "width": p.size},
        resample={"nearest": 0, "bilinear": 2, "bicubic": 3}[p.interpolation],
        image_mean=list(p.mean),
        image_std=list(p.std),
    ).save_pretrained(folder)
    save_tokenizer(folder, source.model.context_length)


def save_tokenizer(folder: str, context_length: int) -> None:
    """OpenAI's vocabulary, from the `clip` module, as transformers reads it."""
    from transformers import CLIPTokenizer

    clip, _ = import_clip()
    bpe = clip._tokenizer
    with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as file:
        json.dump(bpe.encoder, file, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(["#version: 0.2", *map(" ".join, bpe.bpe_ranks)]) + "\n")
    CLIPTokenizer.from_pretrained(folder, model_max_length=context_length).save_pretrained(folder)


class ToHF(Target):
    library = "transformers"
    needs = {"transformers": "transformers"}

    def write(self, source: Source, folder: str) -> None:
        with no_progress_bars():
            save(source, source.folded, folder)

    def load(self, source: Source, folder: str) -> Iterator[Loaded]:
        from transformers import pipeline

        with no_progress_bars():
            pipe: Any = pipeline("zero-shot-image-classification", model=folder, device="cpu")
        text = pipe.tokenizer(source.texts, return_tensors="pt", padding=True)

        def preprocess(image: Any) -> Tensor:
            return pipe.image_processor(images=[image], return_tensors="pt")["pixel_values"][0]

        yield Loaded(lambda pixels: pipe.model(pixel_values=pixels, **text).logits_per_image, preprocess)

    def usage(self, source: Source) -> str:
        return (
            "from transformers import pipeline\n\n"
            'pipe = pipeline("zero-shot-image-classification", model=".")\n'
            "classes = list(pipe.model.config.id2label.values())\n"
            f'pipe("some.jpg", candidate_labels=classes, hypothesis_template={json.dumps(source.model.template)})'
        )
