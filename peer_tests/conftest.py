"""What was skipped is compared with `skips.yaml`: each skip stands there with its reason, and nothing else does."""

import sys
from collections import Counter
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from hf_multimodal import (
    FusionForImageTextClassification,
    RobustFusionForImageTextClassification,
    VisionLanguageForConditionalGeneration,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / ".transformers"))
# Without these names the tests of problem types and of mismatched shapes pass by testing nothing, and labels lack.
for model_class in (FusionForImageTextClassification, RobustFusionForImageTextClassification):
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[model_class.config_class.model_type] = model_class.__name__
_conversing = VisionLanguageForConditionalGeneration
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[_conversing.config_class.model_type] = _conversing.__name__

Test = tuple[str, str]  # class, name
# CLIP under the same tests, by the beginning of our classes' names.
REFERENCES = {"Processor": "ReferenceProcessorTest", "": "ReferenceModelTest"}
outcomes: dict[Test, str] = {}
reasons: dict[Test, str] = {}


@pytest.fixture(autouse=True)
def models_built(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Note whether the test built any model: one that did not has tested nothing."""
    built = []
    original = PreTrainedModel.__init__

    @wraps(original)
    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        built.append(type(self))
        original(self, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "__init__", counted)
    yield
    request.node.user_properties.append(("built", len(built)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    test: Test = tuple(report.nodeid.split("::")[1:3])  # type: ignore[assignment]
    if report.failed:
        outcomes[test] = "failed"
    elif report.skipped and outcomes.get(test) != "failed":
        outcomes[test] = "skipped"
        reasons[test] = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    elif report.when == "teardown" and test not in outcomes:
        builds_models = "Processor" not in test[0]
        outcomes[test] = "empty" if builds_models and not dict(report.user_properties)["built"] else "passed"


def listed(whole: bool) -> Iterator[tuple[Test, dict[str, Any]]]:
    """The tests that the list names, each with its entry; without `whole` only those of this run."""
    classes = sorted({name for name, _ in outcomes} - set(REFERENCES.values()))
    for entry in yaml.safe_load((HERE / "skips.yaml").read_text(encoding="utf-8")):
        for name in classes:
            if any(name.startswith(beginning) for beginning in entry["of"]):
                for test in entry["tests"]:
                    if whole or (name, test) in outcomes:
                        yield (name, test), entry


def problems(whole: bool) -> Iterator[str]:
    """Where the list and the run disagree."""
    entries = dict(listed(whole))
    for test, entry in entries.items():
        found, expected = outcomes.get(test, "not there"), "empty" if entry.get("empty") else "skipped"
        if found != expected and not (entry.get("machine") and found == "passed"):
            yield f"{'::'.join(test)} is listed as {expected}, but {found}"
        reference = next(name for beginning, name in REFERENCES.items() if test[0].startswith(beginning))
        same = outcomes.get((reference, test[1]), expected)
        if entry["clip"] and same != expected and not entry.get("machine"):
            yield f"{'::'.join(test)} is listed as {expected} for CLIP too, but there {same}"
    for test, found in outcomes.items():
        if found in ("skipped", "empty") and test[0] not in REFERENCES.values() and test not in entries:
            yield f"{'::'.join(test)} is {found} and not listed: {reasons.get(test, 'it built no model')}"


def is_whole(config: pytest.Config) -> bool:
    return not config.option.keyword and not any("::" in argument for argument in config.args)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if outcomes and not session.exitstatus and any(problems(is_whole(session.config))):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = Counter((name, outcome) for (name, _), outcome in outcomes.items())
    kinds = ("passed", "empty", "skipped", "failed")
    terminalreporter.write_line(f"{'':32}" + "".join(f"{kind:>9}" for kind in kinds))
    for name in dict.fromkeys(name for name, _ in outcomes):
        terminalreporter.write_line(f"{name:32}" + "".join(f"{counts[name, kind]:9}" for kind in kinds))
    for problem in problems(is_whole(config)):
        terminalreporter.write_line(problem, red=True)
