"""What a rollout's settings may be."""

from typing import Any

import pytest

from contract.strict import SettingsError, parse
from serve_app.rollouts.policy import Policy


def test_the_steps_lead_from_shadow_to_all_clients() -> None:
    """The defaults, as documented."""
    weights = [step.weight for step in Policy().steps]
    assert weights == [0, 0.01, 0.05, 0.10, 0.25, 0.50, 1]


def test_every_setting_says_what_it_is() -> None:
    """The documentation is made of these."""
    assert all(field.description for field in Policy.model_fields.values())


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"steps": []}, "steps: Tuple should have at least 1 item"),
        ({"steps": [{"weight": 0.5}, {"weight": 0.1}, {"weight": 1}]}, "must not fall"),
        ({"steps": [{"weight": 0.5}]}, "the last weight must be 1, it is 0.5"),
        ({"steps": [{"weight": 1.5}]}, "steps.0.weight"),
        ({"steps": [{"weight": -0.1}, {"weight": 1}]}, "steps.0.weight"),
        ({"shadow": 0}, "shadow"),
        ({"max_step_s": 30}, "max_step_s 30 is less than min_s 60"),
        ({"errors": {"fail_above": 0.2, "pass_below": 0.1}}, "could neither pass nor fail"),
        ({"alpha": 1}, "alpha"),
        ({"speed": 1}, "speed: unknown key"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], fault: str) -> None:
    """With a message that names the key."""
    with pytest.raises(SettingsError) as refused:
        parse(Policy, values, "rollout")
    assert fault in str(refused.value)


def test_two_steps_of_the_same_weight_are_allowed() -> None:
    """A step may be repeated, to be longer."""
    assert Policy.model_validate({"steps": [{"weight": 0.5}, {"weight": 0.5}, {"weight": 1}]})
