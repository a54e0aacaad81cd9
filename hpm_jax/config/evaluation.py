"""The options of reports and probes: what scores a frozen encoder."""

import dataclasses

from hpm_jax.config.finetune import Accuracy
from hpm_jax.config.shared import Data, Run, TaskOptions
from hpm_jax.fields import option
from hpm_jax.models.attention import ATTENTIONS


@dataclasses.dataclass(frozen=True)
class Features:
    """What a frozen encoder gives of an image."""

    block: int = option(-1, "after which block, from 1, or from the end; -1 is the last")
    pool: str = option("cls", "cls, mean, or both", choices=("cls", "mean", "both"))
    dtype: str = option("float32", "of matrix products", choices=("float32", "bfloat16"))
    batch_size: int = option(256, "images at once", low=1)


@dataclasses.dataclass(frozen=True)
class Probes:
    """What the report measures on frozen features, and how."""

    names: tuple[str, ...] = option(
        ("baselines", "knn", "few_shot", "linear", "logistic"), "and 'attentive'"
    )
    neighbors: tuple[int, ...] = option((10, 20, 100, 200), "of kNN, each a row", low=1)
    temperature: float = option(0.07, "of kNN's votes", low=1e-3, high=1e3)
    shots: tuple[int, ...] = option((1, 5, 10), "images a class", low=1)
    draws: int = option(5, "of a few-shot row", low=1)
    epochs: int = option(100, "of the linear probe", low=1)
    attentive_epochs: int = option(20, "of the attentive probe", low=1)
    attentive_heads: int = option(4, "of the attentive probe", low=1)
    batch_size: int = option(1024, "of both", low=1)


@dataclasses.dataclass(frozen=True)
class Budget:
    """The fine-tuning of a report."""

    epochs: int = option(0, "0 for none", low=0)
    batch_size: int = option(256, "images at once", low=1)
    base_learning_rate: float = option(1e-3, "for 256 images", above=0, high=1e3)


@dataclasses.dataclass(frozen=True)
class Report(TaskOptions):
    """A table of results of one pre-trained encoder."""

    task: str = option("report", "what the run does")
    seed: int = option(0, "of all random numbers", low=0, high=2**32 - 1)
    init_from: str = option("", "the workdir of a run, or a file of weights; see docs/weights.md")
    weights: str = option(
        "student",
        "which of them: student, teacher, or 'random' for fresh ones",
        choices=("student", "teacher", "random"),
    )
    data: Data = Data()
    features: Features = Features()
    features_file: str = option("", ".npz of the features: written, or read where it is there")
    probes: Probes = Probes()
    finetune: Budget = Budget()
    run: Run = option(Run(), "how the run is run", changes_result=False)


@dataclasses.dataclass(frozen=True)
class ProbeOptimizer:
    """How long a probe is trained, and by what; its learning rates are the sweep's."""

    kind: str = option("sgd", "sgd, lars (MAE's), or adamw", choices=("sgd", "lars", "adamw"))
    epochs: int = option(100, "of the run", low=1, high=10**6)
    batch_size: int = option(2048, "images at once", low=1)
    base_learning_rates: tuple[float, ...] = option(
        (1e-3,), "for 256 images, each times batch_size / 256", above=0, high=1e6
    )
    weight_decays: tuple[float, ...] = option((0.0,), "of the sweep", low=0, high=1e3)
    momentum: float = option(0.9, "of sgd and lars", low=0, below=1)
    warmup_epochs: float = option(10.0, "over which the learning rate rises from 0", low=0)
    floor: float = option(0.0, "the learning rate at the end", low=0, high=1e3)
    accumulation: int = option(1, "parts of a batch, one after the other", low=1)

    @property
    def learning_rate(self) -> float:
        """The peak of the factor that all rates of the sweep are multiplied with."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Probe(TaskOptions):
    """A probe on the features of augmented images: the protocol of the papers."""

    task: str = option("probe", "what the run does")
    seed: int = option(0, "of all random numbers", low=0, high=2**32 - 1)
    init_from: str = option("", "the workdir of a run, or a file of weights")
    weights: str = option(
        "student", "which weights of init_from", choices=("student", "teacher", "random")
    )
    head: str = option("linear", "or attentive", choices=("linear", "attentive"))
    choose_on: float = option(
        0.02, "share of training images held out to choose the setting by, or 0", low=0, below=1
    )
    data: Data = Data(crop_scale=(0.08, 1.0))
    features: Features = Features()
    optimizer: ProbeOptimizer = ProbeOptimizer()
    evaluation: Accuracy = option(Accuracy(), "what is measured on the way", changes_result=False)
    run: Run = option(Run(), "how the run is run", changes_result=False)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How a classifier is scored; none of it changes a result."""

    batch_size: int = option(256, "images at once", low=1)


@dataclasses.dataclass(frozen=True)
class Evaluate(TaskOptions):
    """The accuracy of a classifier with the head that it has."""

    task: str = option("evaluate", "what the run does")
    init_from: str = option(
        "", "the workdir of a fine-tuning run, or its best/, or a file of weights"
    )
    weights: str = option(
        "student",
        "or teacher: the moving average, where there is one",
        choices=("student", "teacher"),
    )
    split: str = option(
        "any",
        "the test folder or list, or all of data.path; 'test': as in training",
        choices=("any", "test"),
    )
    classes: str = option(
        "", "the model's classes in its order: a file, a classes.json, or a folder"
    )
    restrict: bool = option(
        True, "choose among the classes of the data alone, as for ImageNet-A and -R"
    )
    dtype: str = option("float32", "of matrix products", choices=("float32", "bfloat16"))
    attention: str = option("xla", "xla, or cudnn on NVIDIA GPUs in bfloat16", choices=ATTENTIONS)
    data: Data = Data()
    evaluation: Scoring = option(Scoring(), "what is measured on the way", changes_result=False)
    run: Run = option(Run(), "how the run is run", changes_result=False)
