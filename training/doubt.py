"""What an export learns of a model's limits: the figures with which ``handlers.doubt`` judges.

Colours: a mixture of Gaussians over ``statistics`` of training tiles. Content: the distance of the
pooled features from the nearest class, in standard deviations within the classes (Lee et al., 2018,
"A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks").
Prediction sets: the split conformal quantile of one minus the probability of the right class
(Sadinle et al., 2019, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels"). All
limits are those of validation tiles, which no network and no mixture learned from.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from handlers.contract.spec import Doubt, ModelSpec
from handlers.doubt import SIDE, colour_scores, statistics
from handlers.vision import resize
from training.dataset.examples import Examples
from training.inference import predict

COMPONENTS = 8  # of the mixture; 4 find 97 % of pictures that are no tile where 8 find 99.6 %
FALSE_ALARMS = 0.005  # share of validation tiles beyond each of the two limits
COVERAGE = 0.99  # share of prediction sets that hold the right class


class Judged(nn.Module):
    """A network that also says how far an image is from every class that it learned.

    Args:
        trunk: float (N, 3, S, S) -> features, float (N, D).
        head: features -> logits, float (N, C).
        centres: the mean features of each class, (C, D).
        whitening: (D, D); features times it have unit covariance within the classes.
    """

    def __init__(
        self, trunk: nn.Module, head: nn.Module, centres: Tensor, whitening: Tensor
    ) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        white = (centres.double() @ whitening.double()).float()
        self.register_buffer("whitening", whitening)
        self.register_buffer("centres", white.T.contiguous())
        self.register_buffer("lengths", (white * white).sum(dim=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Float (N, 3, S, S) -> logits (N, C), squared distance to the nearest class (N,)."""
        features = self.trunk(x)
        white = features @ self.whitening
        apart = (white * white).sum(dim=1, keepdim=True) - 2 * (white @ self.centres) + self.lengths
        return self.head(features), apart.amin(dim=1).clamp_min(0)  # rounding may fall below


def give_distances(model: nn.Module, spec: ModelSpec, val: Examples) -> tuple[Judged, float]:
    """The same model with distances, and the limit above which they are unlike training.

    Args:
        model: in evaluation mode, in fp32 or int8; it is not changed.
        val: the validation tiles.
    """
    trunk, head = split_head(model)
    features = predict(trunk, val.pixels, spec, "features")
    centres, whitening, limit = fit_content(features, val.targets)
    return Judged(trunk, head, centres, whitening).eval(), limit


def split_head(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A copy of a model's part up to the pooled features, and its classifier.

    Raises:
        TypeError: it has none.
    """
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    for name in ("head.fc", "head", "fc", "classifier"):  # Swin's head pools before its fc
        if name in modules:
            model.set_submodule(name, nn.Identity())
            return model, modules[name]
    raise TypeError(f"{type(model).__name__} has no classifier named head, fc or classifier")


def fit_content(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, float]:
    """Centres and whitening for ``Judged``, and the limit of its distances.

    The limit is that of tiles of which neither centres nor whitening know: each half of them is
    measured by the other half.

    Args:
        features: float (N, D), of validation tiles.
        targets: int64 (N,), every class at least twice.
    """
    halves = torch.empty(len(targets), dtype=torch.bool)
    halves[targets.argsort(stable=True)] = torch.arange(len(targets)) % 2 == 0  # of each class
    apart = torch.empty(len(targets))
    for half in (halves, ~halves):
        centres, whitening = _content(features[~half], targets[~half])
        apart[half] = torch.cdist(features[half] @ whitening, centres @ whitening).amin(1).square()
    centres, whitening = _content(features, targets)
    return centres, whitening, _limit(apart.double().numpy())


def _content(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    classes = int(targets.max()) + 1
    centres = torch.stack([features[targets == label].mean(dim=0) for label in range(classes)])
    within = LedoitWolf(assume_centered=True).fit((features - centres[targets]).double().numpy())
    whitening = np.linalg.cholesky(within.precision_)
    return centres.float(), torch.from_numpy(whitening).float()


def fit_colours(learned: np.ndarray, validation: np.ndarray) -> Doubt:
    """The figures that tiles alone give; those of a model are 0 still (``fit_doubt``).

    Args:
        learned: uint8 (M, S, S, 3), training tiles.
        validation: uint8 (N, S, S, 3), validation tiles.
    """
    figures = statistics(resize(learned, SIDE))
    mean = figures.mean(axis=0)
    deviation = np.maximum(figures.std(axis=0), 0.01)  # few tiles may have no white pixel at all
    mixture = GaussianMixture(COMPONENTS, random_state=0, reg_covar=1e-3)
    mixture.fit((figures - mean) / deviation)
    doubt = Doubt(
        mean=_rounded(mean),
        deviation=_rounded(deviation),
        log_weights=_rounded(np.log(mixture.weights_)),
        means=tuple(map(_rounded, mixture.means_)),
        factors=tuple(tuple(map(_rounded, factor.T)) for factor in mixture.precisions_cholesky_),
        colours_limit=0.0,
        content_limit=0.0,
        least=0.0,
    )
    scores = colour_scores(resize(validation, SIDE), doubt)
    return dataclasses.replace(doubt, colours_limit=_limit(scores))


def fit_doubt(
    colours: Doubt, content_limit: float, probabilities: Tensor, targets: Tensor
) -> Doubt:
    """The figures of a model's file.

    Args:
        colours: of ``fit_colours``.
        content_limit: of ``give_distances``.
        probabilities: calibrated, (N, C), of the validation tiles.
        targets: int64 (N,), their classes.
    """
    least = _least(probabilities, targets)
    return dataclasses.replace(colours, content_limit=content_limit, least=least)


def _least(probabilities: Tensor, targets: Tensor) -> float:
    """The probability from which on a class belongs to the prediction set, 0..1."""
    right = probabilities.double().gather(1, targets[:, None]).flatten().sort().values
    missed = math.floor((len(right) + 1) * (1 - COVERAGE)) - 1
    return right[missed].item() if missed >= 0 else 0.0


def _limit(scores: np.ndarray) -> float:
    return float(np.quantile(scores, 1 - FALSE_ALARMS))


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Five digits: more would make the specification long, and no answer another."""
    return tuple(float(f"{value:.5g}") for value in values)
