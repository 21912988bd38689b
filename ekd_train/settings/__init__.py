"""The typed description of data, architectures and one training run.

Every model is frozen and strict: an unknown key, a wrong type or an out-of-range
value is a `pydantic.ValidationError` before anything starts. This module imports
neither torch nor ray, so that `ekd --help` and `ekd plan` stay fast.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ekd_train.own_code import OwnCode
from ekd_train.settings.architecture import Architecture as Architecture
from ekd_train.settings.architecture import Pretrained as Pretrained
from ekd_train.settings.base import Fraction as Fraction
from ekd_train.settings.base import NonNegative as NonNegative
from ekd_train.settings.base import NonNegativeFloat as NonNegativeFloat
from ekd_train.settings.base import Positive as Positive
from ekd_train.settings.base import PositiveFloat as PositiveFloat
from ekd_train.settings.base import Settings as Settings
from ekd_train.settings.base import Temperature as Temperature
from ekd_train.settings.data import ENCODED as ENCODED
from ekd_train.settings.data import Augmentation as Augmentation
from ekd_train.settings.data import DataName as DataName
from ekd_train.settings.data import DataSettings as DataSettings
from ekd_train.settings.distillation import Distillation as Distillation
from ekd_train.settings.distillation import DkdWeights as DkdWeights
from ekd_train.settings.distillation import EkdWeights as EkdWeights
from ekd_train.settings.distillation import ObjectiveName as ObjectiveName

PerturbationKind = Literal["none", "gaussian", "ods", "conf_ods", "tdiv", "tdiv_sdiv"]
StudentMethod = Literal["kd", "batch_ensemble", "latent_be", "lora", "ekd"]


class Schedule(Settings):
    """Learning-rate factor over training, applied per optimiser step."""

    kind: Literal["cosine", "flat_linear", "constant"] = "cosine"
    """`cosine`: half a cosine from 1 to 0; `flat_linear`: 1, then a line down; `constant`: 1 throughout."""
    warmup_epochs: NonNegativeFloat = 0
    """Epochs in which the factor first rises, linearly, from `warmup_start` to 1; may be a part of one."""
    warmup_start: Fraction = 0.0
    """Factor in the first step of a warm-up."""
    flat_until: Fraction = 0.5
    """`flat_linear`: fraction of training at which the linear decay begins."""
    decay_until: Fraction = 0.9
    """`flat_linear`: fraction of training at which the decay reaches `final_factor`, then stays."""
    final_factor: Fraction = 0.01
    """`flat_linear`: the last factor, as a fraction of the learning rate."""

    @model_validator(mode="after")
    def _ordered(self) -> "Schedule":
        if self.flat_until >= self.decay_until:
            raise ValueError("flat_until must be smaller than decay_until")
        return self


class Speed(Settings):
    """How a training step computes: results change by rounding at most (docs/speed.md)."""

    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """Order of feature maps in memory; fast convolutions and normalisations want the channels last."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions and matrix products in training and its validations; auto: bfloat16 where the
    processor (x86 with AVX512-BF16 or AMX) or GPU computes in it, up to twice as fast, else float32.
    Weights, losses and the evaluation at the end are float32 always. Where hosts differ, name one."""
    cache_teachers: bool = False
    """Evaluate the student's teachers once on every augmented variant of every training image, and
    keep their logits in a file below the user's cache folder. For unperturbed images only, and no
    more variants than epochs: beyond that it would cost more than it saves."""


class Training(Settings):
    """How one network is trained: SGD with momentum, per-step schedule."""

    epochs: Positive = 200
    """Passes over the training images."""
    batch_size: Positive = 128
    """Global batch in images, whatever the number of workers."""
    learning_rate: PositiveFloat = 0.1
    """Step size of SGD at this global batch; it does not change with the number of workers."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the last step's velocity that the next one keeps."""
    nesterov: bool = True
    """Nesterov's momentum: the gradient is taken ahead, where the velocity leads."""
    weight_decay: NonNegativeFloat = 5e-4
    """Coefficient of L2 decay: this share of every weight is added to its gradient."""
    schedule: Schedule = Schedule()
    batch_norm: Literal["per_worker", "synchronised"] = "per_worker"
    """Batch statistics of each worker's share, as in the reference, or of the whole global batch."""
    evaluate_every: Positive = 1
    """Epochs between validations (the last epoch always validates)."""
    checkpoint_every: Positive = 1
    """Epochs between checkpoints (the last epoch always saves)."""
    speed: Speed = Speed()


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
    """Members of a BatchEnsemble or LoRA, or EKD branches; ignored by `kd`."""
    architecture: Architecture = Architecture()
    training: Training = Training()
    factors: Factors = Factors()
    lora: Lora = Lora()
    branches: Branches = Branches()
    select_by: Literal["averaged", "members"] = "averaged"
    """Whose validation accuracy decides which epoch is kept, and in `ekd tune` which trial wins."""


class PerturbationSettings(Settings):
    """How training images are perturbed so that the teachers' diversity shows."""

    kind: PerturbationKind | OwnCode = "none"
    """`gaussian`: noise; `ods`, `conf_ods`: a random direction of a teacher's output; `tdiv`: where two
    teachers part; `tdiv_sdiv`: and two members do not. Or a function of your own, `package.module:name`: see
    `ekd_train.perturbations.Perturbation`."""
    strength: NonNegativeFloat = 1.0
    """In grey levels: 1 is a root-mean-square change of 1/255."""
    temperature: Temperature | None = None
    """ODS and ConfODS: temperature of their softmax; null: `distillation.temperature`."""


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


class Evaluation(Settings):
    """Predict validation and test images with everything that was trained; done once, at the end."""

    name: str = "evaluation"
    control: TrainingRun
    student: TrainingRun
    baseline: TrainingRun | None = None
    """The student before a search changed it: its average predicts the validation images, and them alone."""


class TrialStep(Settings):
    """Move a trial of a search on, from the epoch that it has reported to the next validated one."""

    name: str
    """Unique in its search; checkpoints lie below `trials/<name>`."""
    runs: Annotated[tuple[TrainingRun, ...], Field(min_length=1)]
    """One for each seed, alike but for it; they move on together."""
    after: NonNegative
    """The last epoch that was reported; 0: none."""
