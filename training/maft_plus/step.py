"""One step of the training: a batch of pictures to the terms of the loss (FACTS section 8).

```
pictures ─┬─ student ─┬─ detached ─ head ─ masks, in-vocabulary logits ─ L_P
          │           ├─ mask pooling (detached masks), CDT ─ out-vocabulary logits ─ eq. 5
          │           └──────────────────────────────┐
          └─ teacher (frozen) ───────────────────────┴─ eq. 6
```
So L_P never reaches CLIP, and the other two never reach the head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

from shared.errors import InvalidInputError
from training.maft_plus.alignment_losses import (
    MA_WEIGHT,
    RC_WEIGHT,
    compensation_loss,
    mask_aware_loss,
)
from training.maft_plus.classes import ClassText
from training.maft_plus.matching import Match
from training.maft_plus.points import Draw
from training.maft_plus.proposal_loss import POINTS, Proposals, proposal_loss
from training.maft_plus.targets import Target, pad_targets
from transmitter.relevance.maft_plus.classification import Vocabulary
from transmitter.relevance.maft_plus.clip import ClipFeatures
from transmitter.relevance.maft_plus.mask_decoder import Prediction
from transmitter.relevance.maft_plus.model import MaftPlus, normalise_and_pad


class Outcome(NamedTuple):
    """What a step gives."""

    terms: dict[str, Tensor]
    """Scalars, already weighted: those of `ProposalLoss`, `ranking_loss` (eq. 5) and `rc_loss` (eq. 6)."""

    matches: list[list[Match]]
    """As in `ProposalLoss`."""

    masks: Tensor
    """(batch, queries, h / 4, w / 4) logits of the last decoder output, without gradients."""


class TrainingStep(nn.Module):
    """The model with everything that its loss needs.

    Args:
        model: with its teacher.
        text: of the classes.
        points: at which masks are compared.
        autocast: what to compute in where that is safe; None computes everything in float32. The pixel decoder, the
            matching and the losses are in float32 always.

    Raises:
        InvalidInputError: the model has no teacher, or the text is of another width.
    """

    def __init__(
        self, model: MaftPlus, text: ClassText, *, points: int = POINTS, autocast: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if model.backbone_t is None:
            raise InvalidInputError("model", "it has no teacher to compare with")
        if text.vectors.shape[1] != model.config.embed_dim:
            raise InvalidInputError("text", f"{text.vectors.shape[1]} channels, not {model.config.embed_dim}")
        self.model, self._points, self._autocast, self._synonyms = model, points, autocast, text.counts
        self.register_buffer("_text", text.vectors.detach().clone(), persistent=False)

    def set_mode(self, *, student_depth: bool = False, teacher_depth: bool = False) -> None:
        """Training mode, with stochastic depth in the trunks that are to have it."""
        self.train()
        self.model.backbone.train(student_depth)
        assert self.model.backbone_t is not None
        self.model.backbone_t.train(teacher_depth)

    def forward(self, pictures: Sequence[Tensor], targets: Sequence[Target], mask_count: float, draw: Draw) -> Outcome:
        """Computes all terms of the loss.

        Args:
            pictures: (3, height, width) each, RGB, 0 to 255.
            targets: one per picture, of its size.
            mask_count: segments in the batch, as `mask_count` has it.
            draw: where the points come from.
        """
        images = normalise_and_pad(pictures)
        padded = pad_targets(targets, images.shape[2], images.shape[3])
        text: Tensor = self.get_buffer("_text")
        vocabulary = self.model.vocabulary(text, self._synonyms)
        with torch.autocast(images.device.type, self._autocast, enabled=self._autocast is not None):
            dense, proposed = self._features(images)
            predictions = self._predictions(proposed, vocabulary)
            masks = predictions[-1].mask_logits.detach()
            logits = self._out_vocabulary(dense, masks, vocabulary)
            teacher = self._teacher(images)
        outputs = [Proposals(made.mask_logits, made.class_logits) for made in predictions]
        found = proposal_loss(outputs, padded, mask_count, draw, self._points)
        tuned = {
            "ranking_loss": MA_WEIGHT * mask_aware_loss(logits[:, :, :-1], masks, padded),
            "rc_loss": RC_WEIGHT * compensation_loss(dense, teacher),
        }
        return Outcome({**found.terms, **tuned}, found.matches, masks)

    def _features(self, images: Tensor) -> tuple[Tensor, ClipFeatures]:
        """The student's last map, with gradients, and all of its maps without.

        The original runs the student twice. Both runs give the same unless blocks are dropped at random.
        """
        backbone = self.model.backbone
        if not backbone.training:
            features = backbone.features(images)
            return features.res5, _constant(features)
        with torch.no_grad():
            proposed = _constant(backbone.features(images))
        return backbone.features(images).res5, proposed

    def _predictions(self, features: ClipFeatures, vocabulary: Vocabulary) -> list[Prediction]:
        head = self.model.sem_seg_head
        with torch.autocast(features.res5.device.type, enabled=False):
            pixels = head.pixel_decoder(ClipFeatures(*(level.float() for level in features)))
        predictions: list[Prediction] = head.predictor(pixels, vocabulary)
        return predictions

    def _out_vocabulary(self, dense: Tensor, mask_logits: Tensor, vocabulary: Vocabulary) -> Tensor:
        vectors = self.model.mask_vectors(dense.float(), mask_logits.float())
        texts = self.model.adapt(vocabulary.rows, dense.float())
        return self.model.classify(vectors, texts, vocabulary)

    @torch.no_grad()
    def _teacher(self, images: Tensor) -> Tensor:
        assert self.model.backbone_t is not None
        return self.model.backbone_t.features(images).res5


def _constant(features: ClipFeatures) -> ClipFeatures:
    return ClipFeatures(*(level.detach() for level in features))


def mask_count(targets: Sequence[Target]) -> float:
    """Segments in the batch, the mean over all processes that train together; at least 1."""
    total = torch.tensor(float(sum(len(target.labels) for target in targets)))
    if distributed.is_initialized():
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        total = total.to(device)
        distributed.all_reduce(total)
        total = total / distributed.get_world_size()
    return max(1.0, float(total))
