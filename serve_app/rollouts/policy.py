"""What a rollout does and demands: the `rollout:` part of the serving settings."""

from itertools import pairwise
from typing import Self

from pydantic import Field, PositiveFloat, model_validator

from contract.strict import Strict


class Step(Strict):
    """One stage of a rollout: a share of the clients, and the least that must be seen there."""

    weight: float = Field(
        ge=0, le=1, description="Share of the clients that the challenger answers; 0: shadow only"
    )
    min_s: float = Field(default=60.0, ge=0, description="Least time at this step, in seconds")
    min_requests: int = Field(
        default=500,
        ge=0,
        description="Least number of requests that the challenger is judged on, live and shadow",
    )


class Tolerance(Strict):
    """How much worse a challenger may be. Between the two numbers it may pass or fail."""

    fail_above: float = Field(ge=0, lt=1, description="Fails when surely above this")
    pass_below: float = Field(gt=0, le=1, description="Passes when surely below this")

    @model_validator(mode="after")
    def _nothing_lies_beyond_both(self) -> Self:
        if self.fail_above > self.pass_below:
            raise ValueError(
                f"fail_above {self.fail_above:g} must be at most pass_below {self.pass_below:g}: "
                "what lies between them could neither pass nor fail"
            )
        return self


STEPS = tuple(Step(weight=weight) for weight in (0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 1.0))


class Policy(Strict):
    """The steps of a rollout, and by how much the challenger may be worse than the champion."""

    enabled: bool = Field(
        default=True,
        description="false: a version that passes the gate becomes champion at once",
    )
    steps: tuple[Step, ...] = Field(
        default=STEPS, min_length=1, description="In order; the weights never fall and end at 1"
    )
    shadow: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of live requests that the other version runs too, at every step; "
        "its answers are compared and discarded",
    )
    max_step_s: PositiveFloat = Field(
        default=3600.0, description="Longest time at one step; inconclusive until then aborts"
    )
    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Chance, over a whole rollout, that a version as good as the champion fails",
    )
    errors: Tolerance = Field(
        default=Tolerance(fail_above=0.001, pass_below=0.02),
        description="The challenger's share of failed records, less the champion's",
    )
    missing: Tolerance = Field(
        default=Tolerance(fail_above=0.001, pass_below=0.02),
        description="The challenger's share of predictions missing, NaN or infinite, less the "
        "champion's",
    )
    time: Tolerance = Field(
        default=Tolerance(fail_above=0.5, pass_below=0.5),
        description="Share of calls that take the challenger longer, on the same rows",
    )
    slower_factor: float = Field(
        default=1.5, ge=1, description="Longer is more than this many times the champion's time"
    )
    slower_by_s: float = Field(
        default=0.0005, ge=0, description="and more than this beyond it, in seconds"
    )
    shift: Tolerance = Field(
        default=Tolerance(fail_above=0.2, pass_below=0.2),
        description="Share of records that the challenger predicts otherwise",
    )
    shift_distance: PositiveFloat = Field(
        default=0.5,
        description="Otherwise is another label, or further away than this many standard "
        "deviations of the champion's predictions",
    )
    quality: Tolerance = Field(
        default=Tolerance(fail_above=0.52, pass_below=0.55),
        description="Share of labelled requests for which the challenger is further from the "
        "true value, or predicts more wrong labels; ties count half",
    )
    quality_distance: float = Field(
        default=0.02,
        ge=0,
        description="Further is by more than this many standard deviations of the champion's "
        "predictions; less is a tie",
    )
    quality_required: bool = Field(
        default=False, description="true: a step needs labels, and a pass on quality"
    )

    @model_validator(mode="after")
    def _steps_lead_up_to_all_clients(self) -> Self:
        weights = [step.weight for step in self.steps]
        if any(before > after for before, after in pairwise(weights)):
            raise ValueError(f"steps: the weights must not fall, they are {weights}")
        if weights[-1] != 1:
            raise ValueError(f"steps: the last weight must be 1, it is {weights[-1]:g}")
        return self

    @model_validator(mode="after")
    def _deadline_leaves_the_least_time(self) -> Self:
        longest = max(step.min_s for step in self.steps)
        if longest > self.max_step_s:
            raise ValueError(f"max_step_s {self.max_step_s:g} is less than min_s {longest:g}")
        return self
