"""Every tensor of the forward pass that a golden file names, as our model computes it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.maft_golden.golden import Golden
from transmitter.relevance.maft_plus.classification import class_shares, pool_masks
from transmitter.relevance.maft_plus.deformable import sine_positions
from transmitter.relevance.maft_plus.inference import MaftInference
from transmitter.relevance.maft_plus.mask_decoder import Prediction, resize
from transmitter.relevance.maft_plus.model import MaftOutput, MaftPlus, normalise_and_pad
from transmitter.relevance.maft_plus.relevance import mask_weights, spread_sum
from transmitter.relevance.prompts import TEMPLATES, ensemble

TRAINING: Final = ("rand.", "target.", "match.", "ma.", "loss.", "grad.")
"""Beginnings of the names that belong to the training step."""

INPUTS: Final = ("input.image", "text.tokens", "text.num_templates", "query.tokens")
"""Beginnings of the names that are given, not computed."""

_CONVENTIONS: Final[Mapping[str, Literal["raw", "unit-v", "cosine"]]] = {
    "raw": "raw",
    "vnorm": "unit-v",
    "cos": "cosine",
}
"""Ours by the file's names."""

_PIXEL, _PREDICTOR = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"


@torch.no_grad()
def forward_tensors(model: MaftPlus, golden: Golden) -> dict[str, Tensor]:
    """Runs the whole graph on the file's pictures and texts.

    Returns:
        Our tensors by the file's names, in the file's layouts.
    """
    images = normalise_and_pad(golden.numbered("input.image"))
    texts = _texts(model, golden)
    synonyms = [int(count) for count in golden.tensors["text.num_templates"]]
    vocabulary = model.vocabulary(texts["text.classifier"], synonyms)
    with _recorded(model) as recorded:
        output = model(images, vocabulary)
    return {
        "input.normalized_padded": images,
        **texts,
        "text.classifier_void": vocabulary.rows,
        **recorded,
        **_features(output),
        **_encoder(model, output),
        **_decoder(model, output),
        **_classification(model, output, vocabulary.rows),
        **_post(golden, output, images),
        **_paper(model, golden, output, images),
    }


def inference_tensors(model: MaftPlus, golden: Golden) -> dict[str, Tensor]:
    """What the short way of inference gives, by the file's names.

    Args:
        model: is not to be trained afterwards.
        golden: pictures and texts.
    """
    short = MaftInference(model)
    seen = short.look(normalise_and_pad(golden.numbered("input.image")))
    query = short.adapt(golden.tensors["query.t"], seen)
    size = golden.tensors["input.normalized_padded"].shape
    weights = mask_weights(query, seen.visual, "raw")
    return {
        "text.features": short.encode_text(golden.tensors["text.tokens"]),
        "query.features": short.encode_text(golden.tensors["query.tokens"]),
        "V": seen.visual,
        "cdt.img_feat": seen.transfer,
        f"dec.pred{model.config.decoder_layers}.mask_logits": seen.masks,
        "T_hat": short.adapt(golden.tensors["text.classifier_void"], seen),
        "query.t_hat": query,
        "eq7.S_inf_raw": spread_sum(weights, seen.masks, (size[2], size[3]))[:, 0],
    }


def _texts(model: MaftPlus, golden: Golden) -> dict[str, Tensor]:
    found = {}
    for name, one in (("text", "text.classifier"), ("query", "query.t")):
        features = model.backbone.encode_text(golden.tensors[f"{name}.tokens"])
        found[f"{name}.features"] = features
        found[one] = ensemble(features.view(-1, len(TEMPLATES), features.shape[1]))
    return found


@contextmanager
def _recorded(model: MaftPlus) -> Iterator[dict[str, Tensor]]:
    """What modules inside of the model give while it runs, under the file's names."""
    found: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module, *, queries_first: bool = False) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> None:
            found[name] = output.transpose(0, 1) if queries_first else output

        return module.register_forward_hook(keep)

    pixel, predictor = model.get_submodule(_PIXEL), model.get_submodule(_PREDICTOR)
    handles = [watch("pd.lateral", pixel.get_submodule("adapter_1"))]
    handles += [watch(f"pd.input_proj{i}", pixel.get_submodule(f"input_proj.{i}")) for i in range(3)]
    for i in range(model.config.encoder_layers):
        layer = pixel.get_submodule(f"transformer.encoder.layers.{i}")
        handles.append(watch(f"pd.enc.layer{i}.msda", layer.get_submodule("self_attn")))
        handles.append(watch(f"pd.enc.layer{i}.out", layer))
    for i in range(model.config.decoder_layers):
        for name, part in (("cross", "cross_attention"), ("self", "self_attention"), ("ffn", "ffn")):
            layer = predictor.get_submodule(f"transformer_{part}_layers.{i}")
            handles.append(watch(f"dec.layer{i}.{name}", layer, queries_first=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        if found:
            found["pd.enc.memory"] = found[f"pd.enc.layer{model.config.encoder_layers - 1}.out"]


def _features(output: MaftOutput) -> dict[str, Tensor]:
    taps = {f"feat.{name}": value for name, value in output.features._asdict().items()}
    return taps | {"feat.clip_vis_dense": output.features.res5}


def _encoder(model: MaftPlus, output: MaftOutput) -> dict[str, Tensor]:
    pixel = model.sem_seg_head.pixel_decoder
    tokens = pixel.tokens(output.features)
    sizes = torch.tensor(tokens.sizes)
    counts = sizes.prod(1)
    batch, levels = len(output.pixels.pixel), len(sizes)
    joined = pixel.joined(output.pixels.memories[2], output.features.res2)
    return {
        "pd.enc.src": tokens.source,
        "pd.enc.pos_plus_level": tokens.position.expand(batch, -1, -1),
        "pd.enc.spatial_shapes": sizes,
        "pd.enc.level_start": counts.cumsum(0) - counts,
        "pd.enc.reference_points": tokens.reference[None, :, None].expand(batch, -1, levels, -1),
        "pd.fpn_out": joined,
        **{f"pd.ms{i}": memory for i, memory in enumerate(output.pixels.memories)},
        "E_pixel": output.pixels.pixel,
    }


def _decoder(model: MaftPlus, output: MaftOutput) -> dict[str, Tensor]:
    found = {"E_mask": output.predictions[-1].mask_embed}
    for index, prediction in enumerate(output.predictions):
        parts = _prediction(prediction, model.config.heads)
        found |= {f"dec.pred{index}.{name}": value for name, value in parts.items()}
    return found


def _prediction(prediction: Prediction, heads: int) -> dict[str, Tensor]:
    return {
        "norm": prediction.norm.transpose(0, 1),
        "mask_embed": prediction.mask_embed,
        "mask_logits": prediction.mask_logits,
        "attn_mask": prediction.blocked.repeat_interleave(heads, 0).to(torch.uint8),
        "mask_pool": prediction.pooled,
        "mask_pool_proj": prediction.pooled_proj,
        "class_embed": prediction.class_embed,
        "class_logits": prediction.class_logits,
    }


def _classification(model: MaftPlus, output: MaftOutput, texts: Tensor) -> dict[str, Tensor]:
    dense, masks = output.features.res5, output.predictions[-1].mask_logits
    tokens = model.transfer_tokens(dense)
    batch, channels, rows, columns = tokens.shape
    batched = texts.expand(batch, -1, -1)
    attended = model.cdt.attend(batched, tokens)
    cross = model.cdt.cross_atten
    return {
        "clip.mask_for_pooling": resize(masks, (rows, columns)),
        "clip.pooled": pool_masks(dense, masks),
        "V": output.vectors,
        "cdt.img_feat": tokens,
        "cdt.pos": sine_positions(rows, columns, channels).expand(batch, -1, -1, -1),
        "cdt.attn": attended.transpose(0, 1),
        "T_hat": output.texts,
        "outvocab.logits": output.logits,
        "aside.T_hat_panoptic_mode": batched + cross.norm(cross.MLP(attended)),
        "aside.img_feat_if_permuted_first": model.backbone.project(dense.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    }


def _post(golden: Golden, output: MaftOutput, images: Tensor) -> dict[str, Tensor]:
    """Semantic inference, picture by picture: masks grown to the padded size, summed, cropped, resized."""
    found = {}
    shares = class_shares(output.logits, output.predictions[-1].class_logits)
    covers = resize(output.predictions[-1].mask_logits, images.shape[2:]).sigmoid()
    for i, (image, size) in enumerate(zip(golden.numbered("input.image"), golden.settings["outs"], strict=True)):
        found[f"post.mask_cls_log{i}"] = shares[i]
        scores = torch.einsum("qc,qhw->chw", shares[i].softmax(-1)[:, :-1], covers[i])
        cropped = scores[None, :, : image.shape[1], : image.shape[2]]
        found[f"post.sem_seg{i}"] = functional.interpolate(cropped, size=size, mode="bilinear", align_corners=False)[0]
    return found


def _paper(model: MaftPlus, golden: Golden, output: MaftOutput, images: Tensor) -> dict[str, Tensor]:
    """Equations 3, 4 and 7."""
    masks = output.predictions[-1].mask_logits
    scores = mask_weights(output.texts[:, :-1], output.vectors, "raw")
    # The golden query vector, so that an error of the text tower shows in one place only.
    query = model.adapt(golden.tensors["query.t"], output.features.res5)
    found = {"eq3.S_cls_raw": scores, "eq4.S_raw": spread_sum(scores, masks), "query.t_hat": query}
    for name, convention in _CONVENTIONS.items():
        weights = mask_weights(query, output.vectors, convention)
        found[f"eq7.w_{name}"] = weights[:, 0]
        found[f"eq7.S_inf_{name}_stride4"] = spread_sum(weights, masks)[:, 0]
        found[f"eq7.S_inf_{name}"] = spread_sum(weights, masks, (images.shape[2], images.shape[3]))[:, 0]
    return found
