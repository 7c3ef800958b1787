"""Settings and outcomes of what the command line would ask for, without a stored run."""

from convexinit_paper.experiments import request_of, task_module
from convexinit_paper.request.config import composed, parse_section, parse_settings
from convexinit_paper.training.models import ModelSettings


def model_settings(*overrides):
    return parse_section(ModelSettings, composed(*overrides)["model"], "model")


def run_task(*overrides):
    request = request_of(composed(*overrides))
    task = task_module(request.task)
    return task.run(parse_settings(task.Settings, request.config), request)
