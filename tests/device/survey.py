"""Survey any config on the pretended device."""

from pathlib import Path
from typing import Any

from tests.device.evaluations import survey_evaluation
from tests.device.runs import Step, survey_model


def survey(path: Path, **options: Any) -> dict[str, Step]:
    """Run a config in every precision; returns a training step's waits by method, '' where the config has one model."""
    if path.parent.name in ("fewshot", "elevater"):
        return survey_evaluation(path, **options)
    return {"": survey_model(path, **options)}
