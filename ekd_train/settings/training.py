"""How one network is trained: schedule, precision, optimiser, and what is done to gradients and weights."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ekd_train.settings.base import LIST, Fraction, NonNegativeFloat, Positive, PositiveFloat, Settings


class Schedule(Settings):
    """Learning-rate factor over training, applied per optimiser step."""

    kind: Literal["cosine", "flat_linear", "steps", "constant"] = "cosine"
    """`cosine`: half a cosine from 1 to 0; `flat_linear`: 1, then a line down; `steps`: 1, then a fraction of
    it, and so on; `constant`: 1 throughout."""
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
    decay_at: Annotated[tuple[Fraction, ...], LIST] = (0.5, 0.75)
    """`steps`: fractions of training from each of which on the rate is `step_factor` times what it was."""
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """`steps`: the factor at each of them."""

    @model_validator(mode="after")
    def _ordered(self) -> "Schedule":
        if self.flat_until >= self.decay_until:
            raise ValueError("flat_until must be smaller than decay_until")
        return self


class Speed(Settings):
    """How a training step computes: results change by rounding at most (docs/speed.md)."""

    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """Order of feature maps in memory; fast convolutions and normalisations want the channels last. On
    a CPU networks with strided 1x1 convolutions of fewer than 16 channels are contiguous, whatever it says:
    oneDNN's gradient of those is wrong."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of convolutions and matrix products in training and its validations; auto: bfloat16 where the
    processor (x86 with AVX512-BF16 or AMX) or GPU computes in it, up to twice as fast, else float32.
    Weights, losses and the evaluation at the end are float32 always. Where hosts differ, name one.
    float16 is for GPUs without bfloat16; the loss is scaled so that small gradients survive."""
    checkpoint_activations: bool = False
    """Keep what each layer was given instead of all that it computed, and compute it again for the gradient:
    about a third more time, much less memory, the same gradients."""
    compile: Literal["no", "blocks", "graphs"] = "no"
    """On a GPU: `blocks` compiles each residual or transformer block of the network in training as one
    graph, `graphs` records them as CUDA graphs too; the first steps take minutes. Not together with
    `checkpoint_activations`."""
    cache_teachers: bool = False
    """Evaluate the student's teachers once on every augmented variant of every training image, and
    keep their logits in a file below the user's cache folder. For unperturbed images only, and no
    more variants than epochs: beyond that it would cost more than it saves."""

    @model_validator(mode="after")
    def _one_way_to_run_a_block(self) -> "Speed":
        if self.compile != "no" and self.checkpoint_activations:
            raise ValueError("compile and checkpoint_activations exclude each other; leave one out")
        return self


class Optimiser(Settings):
    """Which rule turns gradients into steps; its rate and decay are `training`'s."""

    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    """`sgd`: with `training.momentum` and `nesterov`; `adamw`: Adam with decoupled decay; `lamb`: Adam's
    steps, scaled to each weight's norm, for large batches (`pip install 'ekd[timm]'`)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """`adamw`, `lamb`: share of the mean of gradients that the next step keeps."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """`adamw`, `lamb`: share of the mean of their squares that the next step keeps."""
    epsilon: PositiveFloat = 1e-8
    """`adamw`, `lamb`: added to the root of that mean, in units of a gradient's norm; 1e-6 with `lamb`."""
    decay: Literal["all", "weights"] = "all"
    """What `training.weight_decay` draws toward 0: all, as in LatentBE's recipe, or weights alone, neither
    biases nor what normalisations have."""


class Training(Settings):
    """How one network is trained: optimiser, per-step schedule, and what is done to gradients and weights."""

    epochs: Positive = 200
    """Passes over the training images."""
    batch_size: Positive = 128
    """Global batch in images, whatever the number of workers."""
    learning_rate: PositiveFloat = 0.1
    """Step size at this global batch; it does not change with the number of workers."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """`sgd`: share of the last step's velocity that the next one keeps."""
    nesterov: bool = True
    """`sgd`: Nesterov's momentum: the gradient is taken ahead, where the velocity leads."""
    weight_decay: NonNegativeFloat = 5e-4
    """Coefficient of L2 decay: this share of every weight is added to its gradient; with `adamw` it is taken
    from the weight itself, times the learning rate."""
    optimiser: Optimiser = Optimiser()
    clip_norm: PositiveFloat | None = None
    """The gradient of the loss is shortened to this Euclidean norm over all parameters; null: never. Where
    EKD's student leaves it out, it is 3: its loss is a sum."""
    accumulate: Positive = 1
    """Parts in which a worker takes its share of a batch, one after the other, to need less memory: the same
    gradient, but for batch statistics, which are of each part."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of the weights' moving average that the next step keeps (0.9999 in long trainings): the average
    is then what is validated and kept; 0: the weights themselves are."""
    swa: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the epochs after which the mean of the weights at the ends of epochs, batch statistics
    included, is what is validated and kept (stochastic weight averaging, Izmailov et al. 2018: 0.75), with a
    schedule whose last factor keeps the weights moving; null: no such mean. Without `ema`."""
    checkpoint_every_minutes: PositiveFloat | None = None
    """Checkpoints within an epoch too, from which a run goes on as exactly; null: after epochs alone, and
    when a machine is about to be taken. It changes no result."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of a label that is spread evenly over all classes, wherever a loss uses labels."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1
    """The head learns at the full rate, each layer before it (a residual network's stage, a
    transformer's block) at this multiple of the rate of the one after it: for fine-tuning."""
    freeze: Annotated[tuple[str, ...], LIST] = ()
    """Parts, by name (`layer1`, `encoder.layers`), that stay as they start, batch statistics included;
    `backbone`: all but the last layer."""
    schedule: Schedule = Schedule()
    batch_norm: Literal["per_worker", "synchronised"] = "per_worker"
    """Batch statistics of each worker's share, as in the reference, or of the whole global batch."""
    evaluate_every: Positive = 1
    """Epochs between validations (the last epoch always validates)."""
    checkpoint_every: Positive = 1
    """Epochs between checkpoints (the last epoch always saves)."""
    speed: Speed = Speed()

    @model_validator(mode="after")
    def _one_average(self) -> "Training":
        if self.swa is not None and self.ema > 0:
            raise ValueError("ema and swa are two averages of the weights; use one")
        return self

    @property
    def decided_otherwise(self) -> tuple[str, ...]:
        """Fields that an identity leaves out: when checkpoints within an epoch are made."""
        return ("checkpoint_every_minutes",)
