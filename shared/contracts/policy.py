"""The declared policy of one logical model: one strict document; every service keeps its own slice of it.

Source: design section 4. Shares are fractions (0..1), durations are seconds, money is in `budget.currency`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.text import LONGEST_SECONDS, Contract, Finite, ModelName, Name, Seconds, Share, Text

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class DataPolicy(Contract):
    """Which rows become a dataset."""

    min_chars: int = Field(1, ge=1, le=100_000, description="Shortest prompt and answer, in characters.")
    max_chars: int = Field(8_000, ge=1, le=100_000, description="Longest prompt plus answer, in characters.")
    max_tokens: int = Field(
        512, ge=8, le=8_192, description="Longest conversation, in tokens of the base model."
    )
    min_rows: Count = Field(50, description="Fewest rows kept for a dataset to be announced.")
    max_own_share: Share = Field(
        0.3, description="Largest share of training rows whose answer came from our own model."
    )


class Recipe(Contract):
    """How to train: everything that, with base and dataset, decides the weights."""

    method: Name = Field("lora", description="Training method: a key of services.trainer.methods.METHODS.")
    rank: int = Field(16, ge=1, le=256, description="LoRA rank r.")
    alpha: int = Field(32, ge=1, le=2_048, description="LoRA alpha; admission wants alpha/r <= 8.")
    dropout: Share = Field(0.0, description="LoRA dropout.")
    targets: tuple[Name, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), min_length=1, description="Modules that get an adapter."
    )
    learning_rate: Positive = Field(1e-3, le=1, description="Peak learning rate.")
    warmup_share: Share = Field(0.05, description="Share of steps spent warming up; cosine decay follows.")
    epochs: Positive = Field(2, le=100, description="Passes over the training split.")
    batch_size: int = Field(32, ge=1, le=4_096, description="Examples per optimiser step.")
    max_length: int = Field(256, ge=8, le=8_192, description="Longest training sequence, in tokens.")
    evaluate_every: Count = Field(10, description="Steps between validation losses.")
    checkpoint_every: Count = Field(10, description="Steps between checkpoints.")
    patience: Count = Field(4, description="Validation losses without improvement before stopping early.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of order, initialisation and dropout.")

    @model_validator(mode="after")
    def _scale(self) -> Self:
        if self.alpha / self.rank > 8:
            raise ValueError(
                "alpha/rank must be at most 8: larger scales are refused when the adapter is loaded"
            )
        return self


class Gate(Contract):
    """Accept if `value >= bar`, where the bar is absolute, or relative to another subject measured on the same rows."""

    name: Name
    metric: Name = Field("exact_match", description="A key of services.evaluator.metrics.METRICS.")
    split: Literal["test", "champion_test"] = Field(
        "test", description="Rows measured; champion_test = forgetting."
    )
    at_least: Finite | None = Field(None, description="Absolute bar.")
    versus: Literal["base", "few_shot", "champion"] | None = Field(
        None, description="Subject to compare with."
    )
    margin: Finite = Field(
        0.0, description="Candidate minus subject must be >= margin (negative: may lose a little)."
    )

    @model_validator(mode="after")
    def _one_bar(self) -> Self:
        if (self.at_least is None) == (self.versus is None):
            raise ValueError("give exactly one of at_least and versus")
        return self


class Ramp(Contract):
    """How a new version takes over the traffic."""

    steps: tuple[Annotated[int, Field(gt=0, le=100)], ...] = Field(
        (5, 25, 50, 100),
        min_length=1,
        max_length=20,
        description="Traffic of the challenger at each step, per cent.",
    )
    min_samples: Count = Field(30, description="Challenger answers needed before a step is judged.")
    min_feedback: int = Field(
        0, ge=0, le=1_000_000_000, description="Scored challenger answers needed before a step is judged."
    )
    hold_seconds: Seconds = Field(10, description="Shortest time at each step.")
    max_quality_loss: Share = Field(
        0.1, description="Tolerated loss of mean feedback score against the champion."
    )
    max_error_rate: Share = Field(0.05, description="Tolerated share of failed answers.")
    max_latency_ratio: Positive = Field(
        3.0, le=1e9, description="Tolerated p99 latency, challenger over champion."
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(0.95, description="Confidence of each test.")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)) or self.steps[-1] != 100:
            raise ValueError("steps must rise and end at 100")
        return self


class DriftPolicy(Contract):
    """When the traffic no longer looks like the training set, or its quality falls."""

    detector: Name = Field("text_domain", description="A key of services.monitor.detectors.DETECTORS.")
    window_predictions: int = Field(100, ge=20, le=20_000, description="Served answers in one window.")
    min_score: Share = Field(
        0.65, description="Detector score (ROC AUC for text_domain) that counts as drift."
    )
    windows: int = Field(2, ge=1, le=20, description="Windows looked at (n of k-of-n).")
    windows_drifted: int = Field(1, ge=1, le=20, description="Windows that must drift (k of k-of-n).")
    min_feedback: Count = Field(30, description="Scored answers needed before quality is judged.")
    max_quality_loss: Share = Field(
        0.15, description="Loss of mean score against the promoted evidence that hurts."
    )
    max_error_rate: Share = Field(0.1, description="Share of failed answers that raises an alert.")
    max_latency_p99_ms: Positive = Field(
        30_000, le=1e9, description="p99 latency that raises an alert, in milliseconds."
    )

    @model_validator(mode="after")
    def _k_of_n(self) -> Self:
        if self.windows_drifted > self.windows:
            raise ValueError("windows_drifted must not exceed windows")
        return self


class RetrainGovernor(Contract):
    """What a retraining needs beyond drift."""

    cooldown_seconds: Seconds = Field(3_600, description="Shortest time between two retrain verdicts.")
    in_flight: int = Field(1, ge=1, le=1, description="Retrainings of one model at a time.")
    in_flight_timeout_seconds: Positive = Field(
        21_600,
        le=LONGEST_SECONDS,
        description="A retraining without any outcome after this long no longer blocks the next.",
    )
    min_corrected: Count = Field(30, description="Corrected answers needed to build the next dataset.")
    max_rows_per_subject: Share = Field(
        0.5,
        description="Largest share of new rows from one feedback author, as tokens name them. Half: nobody teaches the model "
        "alone, whether by mistake or on purpose. 1 is right where all feedback comes through one account that you trust.",
    )


class Budget(Contract):
    """What a run may cost."""

    per_run: Positive = Field(
        5.0, le=1e9, description="A run estimated or measured above this is refused or stopped."
    )
    device_hour: Finite = Field(0.10, ge=0, le=1e9, description="Price of one device hour.")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"


class Generation(Contract):
    """How answers are generated when they are judged."""

    max_tokens: int = Field(16, ge=1, le=2_048, description="Longest answer, in tokens.")
    few_shot: int = Field(8, ge=0, le=64, description="Training rows shown to the few-shot base.")
    max_rows: int = Field(500, ge=10, le=100_000, description="Most held-out rows generated per subject.")


class Policy(Contract):
    """Everything declared about one logical model."""

    model: ModelName
    description: Text = Field("", max_length=2_000)
    base: Name = Field("default", description="Base model; `default` is the one the installation was given.")
    data: DataPolicy = DataPolicy()
    recipe: Recipe = Recipe()
    generation: Generation = Generation()
    gates: tuple[Gate, ...] = Field(
        (
            Gate(name="floor", at_least=0.5),
            Gate(name="beats-few-shot", versus="few_shot", margin=0.0),
            Gate(name="no-forgetting", split="champion_test", versus="champion", margin=-0.1),
        ),
        min_length=1,
    )
    ramp: Ramp = Ramp()
    drift: DriftPolicy = DriftPolicy()
    retrain: RetrainGovernor = RetrainGovernor()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _unique_gates(self) -> Self:
        names = [gate.name for gate in self.gates]
        if len(names) != len(set(names)):
            raise ValueError("gate names must be unique")
        return self
