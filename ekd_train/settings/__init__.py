"""The typed description of data, architectures and one training run.

Every model is frozen and strict: an unknown key, a wrong type or an out-of-range
value is a `pydantic.ValidationError` before anything starts. This module imports
neither torch nor ray, so that `ekd --help` and `ekd plan` stay fast.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ekd_train.own_code import OwnCode, refuse_options
from ekd_train.settings.architecture import Architecture as Architecture
from ekd_train.settings.architecture import Pretrained as Pretrained
from ekd_train.settings.base import Fraction as Fraction
from ekd_train.settings.base import NonNegative as NonNegative
from ekd_train.settings.base import NonNegativeFloat as NonNegativeFloat
from ekd_train.settings.base import Options as Options
from ekd_train.settings.base import Positive as Positive
from ekd_train.settings.base import PositiveFloat as PositiveFloat
from ekd_train.settings.base import Settings as Settings
from ekd_train.settings.base import Temperature as Temperature
from ekd_train.settings.data import ENCODED as ENCODED
from ekd_train.settings.data import LISTED as LISTED
from ekd_train.settings.data import Augmentation as Augmentation
from ekd_train.settings.data import DataName as DataName
from ekd_train.settings.data import DataSettings as DataSettings
from ekd_train.settings.distillation import Distillation as Distillation
from ekd_train.settings.distillation import DkdWeights as DkdWeights
from ekd_train.settings.distillation import EkdWeights as EkdWeights
from ekd_train.settings.distillation import ObjectiveName as ObjectiveName
from ekd_train.settings.training import Optimiser as Optimiser
from ekd_train.settings.training import Schedule as Schedule
from ekd_train.settings.training import Speed as Speed
from ekd_train.settings.training import Training as Training

PerturbationKind = Literal["none", "gaussian", "ods", "conf_ods", "tdiv", "tdiv_sdiv"]
StudentMethod = Literal["kd", "batch_ensemble", "latent_be", "lora", "ekd", "papa"]
Average = Literal["mean", "picked"]


class Factors(Settings):
    """How BatchEnsemble's factors r and s start and learn (algorithms: LatentBE, eq. of 1.3)."""

    init: Literal["ones", "normal", "random_sign"] = "ones"
    """`ones`: members start equal; `normal`: around 1; `random_sign`: 1 or -1, each as likely."""
    init_std: PositiveFloat = 0.5
    """`normal`: standard deviation of the factors, which are N(1, init_std)."""
    gradient_scale: Literal["members", "one"] = "members"
    """`members`: gradients times M, as the authors' code; `one`: left alone."""
    decay: Literal["toward_one", "none"] = "toward_one"
    """Weight decay of the factors: `toward_one`, which is no change of the weights; `none`."""
    learning_rate_multiplier: PositiveFloat = 1.0
    """The factors' learning rate, as a multiple of `training.learning_rate`."""
    warmup_epochs: NonNegativeFloat = 0
    """The factors' learning rate rises linearly from 0 over these epochs, on top of the schedule."""
    member_bias: bool = False
    """A bias per member on the last Linear, added after s, in place of the shared one (ODS paper)."""


class Lora(Settings):
    """`lora`: changes `B_m A_m` of every weight, and a head a member (LoRA-Ensemble, arXiv 2405.14438)."""

    rank: Positive = 8
    """Rank of every change, in dimensions; 4 to 16 in the paper."""
    init: Literal["xavier", "normal"] = "xavier"
    """How A starts, drawn for each member; B starts at 0: members start as the plain network."""
    train_base: bool = True
    """false: what members share stays as it started; for a student that starts from trained weights."""


class Papa(Settings):
    """`papa`: whole networks, trained on labels and pulled toward their mean (PAPA, TMLR 2024)."""

    every: Positive = 10
    """Steps from one pull to the next."""
    rate: Fraction = 0.01
    """Share of the way to the mean; the paper's is for 100,000 steps: shorter schedules want more."""


class Branches(Settings):
    """EKD's parallel branches."""

    split: str | None = None
    """Name of the stage after which the branches part; null: after half of the stages."""
    init: Literal["copies", "independent"] = "copies"
    """`copies`: branches start equal, so that their average means something; `independent`: redrawn."""


class Student(Settings):
    """The network that is distilled and then averaged."""

    method: StudentMethod = "latent_be"
    """`batch_ensemble` is `latent_be` but where images are perturbed and `alpha` < 1: see `ce_kd`."""
    members: Positive = 4
    """Members of a BatchEnsemble or LoRA, EKD branches or PAPA's networks; ignored by `kd`."""
    architecture: Architecture = Architecture()
    training: Training = Training()
    factors: Factors = Factors()
    lora: Lora = Lora()
    branches: Branches = Branches()
    papa: Papa = Papa()
    select_by: Literal["averaged", "members"] = "averaged"
    """Whose validation accuracy decides which epoch is kept, and in `ekd tune` which trial wins."""
    average: Average = "mean"
    """`mean`: members count alike in their average; `picked`: each as much as lowers its NLL on validation
    images most, measured once, after training, which validates the mean all the same. Ignored by `kd`."""

    @model_validator(mode="after")
    def _starts_from_something(self) -> "Student":
        start = self.architecture  # a class of one's own may have weights of its own
        drawn = start.weights is None and not start.pruned and ":" not in start.name
        if self.method == "lora" and not self.lora.train_base and drawn:
            raise ValueError(
                "lora.train_base=false leaves what members share as it started, which would be random: set "
                "architecture.weights, or leave it out"
            )
        return self


class PerturbationSettings(Settings):
    """How training images are perturbed so that the teachers' diversity shows."""

    kind: PerturbationKind | OwnCode = "none"
    """`gaussian`: noise; `ods`, `conf_ods`: a random direction of a teacher's output; `tdiv`: where two
    teachers part; `tdiv_sdiv`: and two members do not. Or a function of your own, `package.module:name`: see
    `ekd_train.perturbations.Perturbation`."""
    options: Options = Field(default_factory=dict)
    """Keyword arguments of a function of your own, beside images, draw and networks."""
    strength: NonNegativeFloat = 1.0
    """In grey levels: 1 is a root-mean-square change of 1/255."""
    temperature: Temperature | None = None
    """ODS and ConfODS: temperature of their softmax; null: `distillation.temperature`."""

    @model_validator(mode="after")
    def _takes_options(self) -> "PerturbationSettings":
        refuse_options(self.options, self.kind)
        return self


class TrainingRun(Settings):
    """Everything that decides the weights of one trained network, for a given data fingerprint.

    `role` "label" trains on labels alone (a teacher, the control, or what both it and a pruned student
    start from); "student" distils the networks named in `teachers` into a student with subnetworks;
    "given" measures a teacher that exists already, and trains nothing.
    """

    name: str
    """Unique in its `ekd run`: `teacher-0`, `unpruned`, `control`, `student`."""
    role: Literal["label", "student", "given"]
    seed: int
    architecture: Architecture
    training: Training
    augmentation: Augmentation = Augmentation()
    student: Student | None = None
    distillation: Distillation | None = None
    perturbation: PerturbationSettings = PerturbationSettings()
    teachers: "tuple[TrainingRun, ...]" = ()
    best_teacher_only: bool = False
    """Of `teachers` only the one that is best on validation images teaches."""
    starts_from: "TrainingRun | None" = None
    """The finished run whose network, pruned, is where this one begins; None: random weights."""
    code: dict[str, str] = Field(default_factory=dict)
    """Modules of one's own that it names, and the hashes of their sources."""

    @model_validator(mode="after")
    def _can_cache(self) -> "TrainingRun":
        if self.training.speed.cache_teachers and (why := self.why_not_cached()):
            raise ValueError(f"student.training.speed.cache_teachers cannot be used: {why}")
        return self

    @property
    def is_teacher(self) -> bool:
        """Whether it is a teacher, and not the student, its control or what both start from."""
        return self.name.startswith("teacher-")

    @property
    def epochs(self) -> int:
        """How long it trains."""
        return 0 if self.role == "given" else self.training.epochs

    @property
    def needs(self) -> "tuple[TrainingRun, ...]":
        """The runs whose networks it learns or starts from."""
        return self.teachers + ((self.starts_from,) if self.starts_from is not None else ())

    def why_not_cached(self) -> str | None:
        """Why the teachers' predictions cannot be kept from epoch to epoch; None if they can."""
        variants, epochs = self.augmentation.variants, self.training.epochs
        if not self.teachers:
            return None
        if self.perturbation.kind != "none":
            return f"perturbation.kind={self.perturbation.kind} makes new images in every step"
        if self.distillation is not None and self.distillation.ekd.feature > 0:
            return "distillation.ekd.feature asks for the teachers' features too"
        if self.augmentation.endless:
            return "augmentation makes new images in every step"
        if variants > epochs:
            return f"augmentation makes {variants} variants of an image, more than the {epochs} epochs"
        return None

    def sharing_predictions(self) -> "TrainingRun":
        """This run, taking its teachers' predictions from a machine's one copy, where it can.

        Only of images that are neither perturbed nor augmented: there one pass over the images makes all
        that the runs of a machine will ever ask for. The student is the same to rounding.
        """
        if not self.teachers or self.augmentation.variants > 1 or self.why_not_cached():
            return self
        speed = self.training.speed.model_copy(update={"cache_teachers": True})
        return self.model_copy(update={"training": self.training.model_copy(update={"speed": speed})})


class MemberWeighing(Settings):
    """Find how much each member of a trained student counts in its average, on validation images."""

    name: str = "average"
    student: TrainingRun


class Evaluation(Settings):
    """Predict validation and test images with everything that was trained; done once, at the end."""

    name: str = "evaluation"
    control: TrainingRun
    student: TrainingRun
    controls: tuple[TrainingRun, ...] = ()
    """Further ones, by name `control-...`."""
    member_weights: tuple[float, ...] = ()
    """Of the student's members in its average; empty: they count alike."""
    baseline: TrainingRun | None = None
    """The student before a search changed it: its average predicts the validation images, and them alone."""
    baseline_average: Average = "mean"


class TrialStep(Settings):
    """Move a trial of a search on, from the epoch that it has reported to the next validated one."""

    name: str
    """Unique in its search; checkpoints lie below `trials/<name>`."""
    runs: Annotated[tuple[TrainingRun, ...], Field(min_length=1)]
    """One for each seed, alike but for it; they move on together."""
    after: NonNegative
    """The last epoch that was reported; 0: none."""
