"""Training: from data to a promoted version in MLflow's registry. Start with `python -m train`."""
