"""Serving settings: strict, with the environment before the file."""

from pathlib import Path

import pytest

from contract import strict
from contract.strict import SettingsError
from serve_app import settings

ROOT = Path(__file__).parents[3]


def test_the_environment_wins_over_the_file() -> None:
    """The original system's names go before `args`."""
    environ = {"MODEL_SERVED": "local", "MODEL_DIR": "/m", "MLFLOW_SERVER_HOST": "mlflow:5000"}
    chosen = settings.resolve({"model_served": "mlflow", "model_name": "m"}, environ)
    assert (chosen.model_served, chosen.model_dir, chosen.model_name) == ("local", Path("/m"), "m")
    assert chosen.mlflow_tracking_uri == "http://mlflow:5000"


def test_mlflows_own_name_goes_before_the_originals() -> None:
    """MLFLOW_TRACKING_URI is the standard one."""
    environ = {"MLFLOW_TRACKING_URI": "http://a:1", "MLFLOW_SERVER_HOST": "http://b:2"}
    assert settings.resolve({}, environ).mlflow_tracking_uri == "http://a:1"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"modelname": "x"}, "modelname: unknown key"),
        ({"model_served": "s3"}, "model_served"),
        ({"limits": {"deadline_s": 0}}, "limits.deadline_s"),
        ({"limits": {"max_body_bytes": "many"}}, "limits.max_body_bytes"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(args: dict[str, object], says: str) -> None:
    """The message has the key."""
    with pytest.raises(SettingsError, match=says):
        settings.resolve(args, {})


def test_the_shipped_config_holds_settings_that_fit() -> None:
    """serve_config.yaml is valid, and leaves one of two CPUs to training."""
    config = strict.read_yaml(ROOT / "serve_config.yaml")
    settings.resolve(settings.args_of(config), {})
    cpus = sum(
        deployment["ray_actor_options"]["num_cpus"]
        * deployment.get("autoscaling_config", {"max_replicas": 1})["max_replicas"]
        for deployment in config["applications"][0]["deployments"]
    )
    assert cpus <= 1.0


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """YAML itself would keep the last one without a word."""
    file = tmp_path / "c.yaml"
    file.write_text("a: 1\na: 2\n")
    with pytest.raises(SettingsError, match="stands twice"):
        strict.read_yaml(file)
