"""Under which terms data sets are given, and so whether what was trained on them may be published.

MIT and BSD are what the licence file of the repository named says; of the spoken digits, their README. CC BY 4.0 of
sets of the UCI repository is what redistributors quote from its page behind the DOI, which itself could not be read.
"""

from __future__ import annotations

from dataclasses import dataclass

MIT, BSD2, BSD3 = "MIT", "BSD-2-Clause", "BSD-3-Clause"
CC_BY, CC_BY_SA, CC_BY_NC_SA = "CC BY 4.0", "CC BY-SA 4.0", "CC BY-NC-SA 4.0"


@dataclass(frozen=True)
class Terms:
    """The terms of one data set.

    Args:
        licence: its name; None where the set comes without one. Nothing trained on such a set, or on one whose licence
            is for non-commercial use, may be published.
        source: where the data and its terms are from.
        file: what a user must have in the folder ``METAAD_DATA`` to train on it again; None: it comes with a package.
    """

    licence: str | None
    source: str
    file: str | None = None

    @property
    def share_alike(self) -> bool:
        """Whether what is made of the data is to be passed on under the same terms."""
        return self.licence is not None and "-SA" in self.licence

    @property
    def non_commercial(self) -> bool:
        """Whether the data may serve non-commercial purposes only."""
        return self.licence is not None and "-NC" in self.licence


_DIGITS = "Alpaydin and Kaynak, UCI 1998, https://doi.org/10.24432/C50P49, test part, in scikit-learn"
_WINE = "Aeberhard and Forina, UCI 1992, https://doi.org/10.24432/C5PC7J, in scikit-learn"
_BREAST = "Wolberg, Mangasarian, Street and Street, UCI 1993, https://doi.org/10.24432/C5DW2B, in scikit-learn"
_IRIS = "Fisher, 1936, UCI, https://doi.org/10.24432/C56C76, in scikit-learn"
_OMNIGLOT = "Lake, Salakhutdinov and Tenenbaum, Science 2015, https://github.com/brendenlake/omniglot"
_FSDD = "Jackson et al., Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset"
_BANK = (
    "printed circuits (https://github.com/tangsanli5201/DeepPCB), coffee leaves (https://github.com/esgario/lara2018), "
    "tomatoes (https://github.com/skarifahmed/FGrade) and waste (https://github.com/garythung/trashnet), MIT; steel "
    "strip (https://github.com/Fighter20092392/X-SDD-A-New-benchmark), Apache-2.0; blood smears "
    "(https://github.com/williancarddd/fiocruz-malaria-cells-detec) and nine types of paper, CC BY 4.0"
)

TERMS: dict[str, Terms] = {
    "generated": Terms("Apache-2.0", "made by this package from a seed"),
    # image
    "digits": Terms(CC_BY, _DIGITS),
    "omniglot28": Terms(MIT, _OMNIGLOT, "omniglot28.npz"),
    "torchvision/Omniglot": Terms(MIT, _OMNIGLOT),
    "torchvision/FashionMNIST": Terms(MIT, "Xiao et al., 2017, https://github.com/zalandoresearch/fashion-mnist"),
    "torchvision/KMNIST": Terms(CC_BY_SA, "Clanuwat et al., 2018, https://github.com/rois-codh/kmnist"),
    "piped128": Terms(CC_BY, "images of a paper inspection, nine types of paper", "piped128.npz"),
    "image_bank": Terms("MIT, Apache-2.0 and CC BY 4.0", _BANK, "bank, piped128.npz"),
    "cifar100": Terms(None, "Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html", "cifar100.npz"),
    "torchvision/CIFAR10": Terms(None, "Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html"),
    "torchvision/CIFAR100": Terms(None, "Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html"),
    "mvtec_ad": Terms(
        CC_BY_NC_SA, "Bergmann et al., CVPR 2019, https://www.mvtec.com/company/research/datasets/mvtec-ad"
    ),
    "visa": Terms(CC_BY, "Zou et al., ECCV 2022, https://github.com/amazon-science/spot-diff"),
    "btad": Terms(None, "Mishra et al., ISIE 2021, https://avires.dimi.uniud.it/papers/btad"),
    "mpdd": Terms(None, "Jezek et al., ICUMT 2021, https://github.com/stepanje/MPDD"),
    # sequence
    "nab": Terms(MIT, "Lavin and Ahmad, ICMLA 2015, https://github.com/numenta/NAB", "nab.npz"),
    "smd": Terms(MIT, "Su et al., KDD 2019, https://github.com/NetManAIOps/OmniAnomaly", "smd.npz"),
    "asd": Terms(MIT, "Li et al., KDD 2021, https://github.com/zhhlee/InterFusion", "asd.npz"),
    "smap": Terms(BSD3, "Hundman et al., KDD 2018, https://github.com/khundman/telemanom", "smap.npz"),
    "tep": Terms("free to use", "Downs and Vogel, 1993: output of the Tennessee Eastman simulator", "tep.npz"),
    "omniglot_strokes": Terms(MIT, _OMNIGLOT, "omniglot_image_stroke.npz"),
    "spoken_digits": Terms(CC_BY_SA, _FSDD, "digits_audio_image.npz"),
    # tabular
    "adbench": Terms(
        BSD2,
        "Han et al., NeurIPS 2022, https://github.com/Minqi824/ADBench, a collection of tables by others",
        "adbench.npz",
    ),
    "sklearn_tables": Terms(CC_BY, "; ".join((_WINE, _BREAST, _IRIS, _DIGITS))),
    "sklearn/breast_cancer": Terms(CC_BY, _BREAST),
    "sklearn/digits_table": Terms(CC_BY, _DIGITS),
    "sklearn/iris": Terms(CC_BY, _IRIS),
    "sklearn/wine": Terms(CC_BY, _WINE),
    # multimodal
    "digits_audio_image": Terms(
        "CC BY-SA 4.0 (speech), MIT (images)", f"{_FSDD}, and handwritten digits", "digits_audio_image.npz"
    ),
    "digits_tones": Terms(CC_BY, f"{_DIGITS}; tones made by this package"),
    "omniglot_image_stroke": Terms(MIT, _OMNIGLOT, "omniglot_image_stroke.npz"),
    "leaf_image_table": Terms(None, "Mallah, Cope and Orwell, 2013: 100 plant species leaves", "leaf_image_table.npz"),
}
"""By data set, as far as they are known; a set that is not here has terms that are not known."""


def terms_of(dataset: str, stated: str | None = None) -> Terms:
    """The terms of a data set from which a model is to be published.

    Args:
        dataset: its name, as in ``data.dataset``.
        stated: licence of the publisher's own data, where this package can't know it.

    Raises:
        ValueError: it has no licence, one for non-commercial use only, or none that is known and none is stated.
    """
    terms = TERMS.get(dataset)
    if terms is None:
        if stated is None:
            raise ValueError(
                f"the terms of the data {dataset!r} are not known: if it is yours, or may be used to publish models, "
                "say under which terms with --data-licence"
            )
        return Terms(stated, "as stated by who published the model")
    if terms.licence is None:
        raise ValueError(
            f"{dataset} comes without a licence ({terms.source}), so nothing trained on it may be published: train on "
            "a set whose terms allow it; the model stays usable from its run's folder"
        )
    if terms.non_commercial:
        raise ValueError(
            f"{dataset} is for non-commercial use only ({terms.licence}, {terms.source}), and published models are for "
            "every use: train on a set whose terms allow it; the model stays usable from its run's folder"
        )
    return terms
