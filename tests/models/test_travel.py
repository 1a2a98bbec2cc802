"""What stands in `models/` goes to the Hub with every checkpoint, so it may import only what is found there.

transformers looks for the files that a model needs by a regular expression over their text, and drops them flat
into one folder; an import it does not find, or misreads, breaks saving, or the load on somebody else's machine.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_fusion_model import make_model
from test_image_tokenizer import make_image_tokenizer
from test_processor import make_image_processor, make_tokenizer
from test_text_to_image import make_text_to_image
from test_text_to_image_processor import make_text_to_image_processor
from test_vision_language import make_model as make_vision_language
from test_vision_language import make_processor as make_vision_language_processor
from transformers import PreTrainedModel

import hf_multimodal.models
from hf_multimodal import (
    AlignerModel,
    FusionForImageTextClassification,
    MultimodalProcessor,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.models.modeling_recurrent_text import RecurrentTextConfig, RecurrentTextModel
from hf_multimodal.models.modeling_torchvision import TorchvisionConfig, TorchvisionModel

FOLDER = Path(hf_multimodal.models.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
PACKAGES = {"torch", "torchvision", "numpy", "PIL", "transformers"}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def relative_import_error(node: ast.ImportFrom, siblings: set[str], at_top: bool) -> str | None:
    if node.level > 1:
        return "goes up, out of the folder"
    if node.module is None:
        return "is left behind: write `from .name import X`"
    if "." in node.module:
        return "reaches into a subfolder"
    if node.module not in siblings:
        return "names no file of this folder"
    if any(alias.name == "*" for alias in node.names):
        return "imports everything"
    return None if at_top else "must stand at the top of the file"


def travel_errors(source: str, siblings: set[str]) -> list[str]:
    """List, as `line: reason`, the imports of a file that may not travel."""
    tree = ast.parse(source)
    blocks = [tree.body, *(node.body for node in tree.body if is_type_checking(node))]
    at_top = {id(node) for block in blocks for node in block}
    in_try = {id(child) for node in ast.walk(tree) if isinstance(node, ast.Try) for child in ast.walk(node)}
    errors, statements = [], set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        statements.add(node.lineno)
        if id(node) in in_try:
            errors.append((node.lineno, "an import under `try` is not seen"))
        if isinstance(node, ast.ImportFrom) and node.level:
            reason = relative_import_error(node, siblings, id(node) in at_top)
            if reason:
                errors.append((node.lineno, f"`{ast.unparse(node)}` {reason}"))
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for package in sorted({name.partition(".")[0] for name in names}):
            if package not in PACKAGES and package not in sys.stdlib_module_names:
                errors.append((node.lineno, f"`{package}` is not on the list of packages"))
    for number, line in enumerate(source.splitlines(), start=1):
        if re.match(r"\s*(from|import)\s+\.", line) and number not in statements:
            errors.append((number, "text that reads like a relative import is taken for one"))
    return [f"{number}: {reason}" for number, reason in sorted(errors)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_may_travel(path):
    assert travel_errors(path.read_text(encoding="utf-8"), {file.stem for file in FILES}) == []


def test_folder_is_flat():
    assert FILES
    assert [path for path in FOLDER.rglob("*.py") if path.parent != FOLDER] == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("from ..data import load", "1: `from ..data import load` goes up"),
        ("from . import fusion", "1: `from . import fusion` is left behind"),
        ("from .layers.fusion import X", "1: `from .layers.fusion import X` reaches into a subfolder"),
        ("from .layers import X", "1: `from .layers import X` names no file of this folder"),
        ("from .fusion import *", "1: `from .fusion import *` imports everything"),
        ("from hf_multimodal.models.fusion import X", "1: `hf_multimodal` is not on the list"),
        ("import hf_multimodal.data as data", "1: `hf_multimodal` is not on the list"),
        ("import torch, peft", "1: `peft` is not on the list"),
        ("def f():\n    import sklearn.metrics", "2: `sklearn` is not on the list"),
        ("def f():\n    from .fusion import X", "2: `from .fusion import X` must stand at the top"),
        ("if torch:\n    from .fusion import X", "2: `from .fusion import X` must stand at the top"),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", "2: an import under `try` is not seen"),
        ("try:\n    pass\nexcept ImportError:\n    import torch", "4: an import under `try` is not seen"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..data import X",
            "3: `from ..data import X` goes up",
        ),
        ('"""Read the features\nfrom .x import them.\n"""', "2: text that reads like a relative import"),
        ('def f():\n    """\n    import .fusion\n    """', "3: text that reads like a relative import"),
    ],
)
def test_checker_finds(source, reason):
    errors = travel_errors(source, {"fusion"})
    assert len(errors) == 1
    assert errors[0].startswith(reason)


@pytest.mark.parametrize(
    "source",
    [
        "import math\nfrom collections.abc import Mapping\nimport torch.nn.functional as F\nfrom PIL import Image",
        "from .fusion import (\n    FUSIONS,\n    ConcatFusion,\n)",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .fusion import X",
        '"""Text that tells where things come from.\n\n>>> from .fusion import X\n"""',
        "def f():\n    import numpy as np\n    return np",
    ],
)
def test_checker_allows(source):
    assert travel_errors(source, {"fusion"}) == []


LOAD_ELSEWHERE = """
import sys
sys.modules["hf_multimodal"] = None  # as on a machine without the package
import torch
from transformers import AutoModel
for folder in sys.argv[1:]:
    model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values()), info
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    torch.save(model.eval()(**torch.load(f"{folder}/inputs.pt")).to_tuple(), f"{folder}/outputs.pt")
"""


def test_own_vision_and_text_models_load_without_the_package(tmp_path, monkeypatch):
    torch.manual_seed(0)
    examples: list[tuple[PreTrainedModel, dict[str, torch.Tensor]]] = [
        (
            TorchvisionModel(TorchvisionConfig(architecture="resnet18", image_size=32)),
            {"pixel_values": torch.randn(2, 3, 32, 32)},
        ),
        (
            RecurrentTextModel(RecurrentTextConfig(vocab_size=9, embedding_size=4, hidden_size=6, cell="gru")),
            {"input_ids": torch.tensor([[5, 3, 0], [8, 2, 1]])},
        ),
    ]
    folders = []
    for model, inputs in examples:
        monkeypatch.setattr(type(model), "_auto_class", "AutoModel")
        monkeypatch.setattr(type(model.config), "_auto_class", "AutoConfig")
        folder = tmp_path / model.config.model_type
        model.save_pretrained(folder)
        torch.save(inputs, folder / "inputs.pt")
        folders.append(folder)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD_ELSEWHERE, *map(str, folders)]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    for (model, inputs), folder in zip(examples, folders, strict=True):
        # Loaded here too: kernels round by where tensors lie in memory, and those of a file lie anywhere
        expected = type(model).from_pretrained(folder)(**inputs).to_tuple()
        for mine, other in zip(expected, torch.load(folder / "outputs.pt"), strict=True):
            assert torch.equal(mine, other)


ALWAYS = {"configuration_vision_text", "inner_models", "modeling_vision_text", "processing_multimodal"}
CLASSIFIER = {"fusion", "modeling_fusion", "pipeline_image_text_classification"}
TRAVELS = {
    FusionForImageTextClassification: ALWAYS | CLASSIFIER,
    RobustFusionForImageTextClassification: ALWAYS | CLASSIFIER | {"modeling_robust_fusion"},
    AlignerModel: ALWAYS | {"modeling_aligner", "losses"},
}
IMAGE_TOKENIZER = {"checked_model", "configuration_vision_text"}
IMAGE_TOKENIZER |= {"configuration_image_tokenizer", "modeling_image_tokenizer"}
TEXT_TO_IMAGE = {"configuration_text_to_image", "modeling_text_to_image", "processing_text_to_image"}
VISION_LANGUAGE = {"checked_model", "configuration_vision_text", "inner_models"}
VISION_LANGUAGE |= {"configuration_vision_language", "modeling_vision_language", "processing_vision_language"}
OWN = {"torchvision:resnet18": {"modeling_torchvision"}, "recurrent_text:gru": {"modeling_recurrent_text"}}


@pytest.mark.parametrize("text", ["bert", "recurrent_text:gru"])
@pytest.mark.parametrize("vision", ["vit", "torchvision:resnet18"])
@pytest.mark.parametrize("family", TRAVELS, ids=lambda family: family.__name__)
def test_what_travels_is_what_the_model_needs(family, vision, text, tmp_path):
    make_model(vision, text, family).save_pretrained(tmp_path)
    MultimodalProcessor(make_image_processor(), make_tokenizer()).save_pretrained(tmp_path)
    found = {path.stem for path in tmp_path.glob("*.py")}
    assert found == TRAVELS[family] | OWN.get(vision, set()) | OWN.get(text, set())
    assert len(found) <= 10


def test_what_travels_with_an_image_tokenizer(tmp_path):
    make_image_tokenizer().save_pretrained(tmp_path)
    make_image_processor().save_pretrained(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.py")} == IMAGE_TOKENIZER


def test_what_travels_with_a_text_to_image_model(tmp_path):
    make_text_to_image().save_pretrained(tmp_path)
    model_alone = {path.stem for path in tmp_path.glob("*.py")}
    make_text_to_image_processor(12).save_pretrained(tmp_path)
    found = {path.stem for path in tmp_path.glob("*.py")}
    assert found == model_alone == IMAGE_TOKENIZER | TEXT_TO_IMAGE | {"processing_multimodal"}
    assert len(found) <= 10


@pytest.mark.parametrize("vision", ["vit", "torchvision:resnet18"])
def test_what_travels_with_a_vision_language_model(vision, tmp_path):
    make_vision_language(vision).save_pretrained(tmp_path)
    model_alone = {path.stem for path in tmp_path.glob("*.py")}
    make_vision_language_processor().save_pretrained(tmp_path)
    found = {path.stem for path in tmp_path.glob("*.py")}
    assert found == model_alone == VISION_LANGUAGE | OWN.get(vision, set())


WITHOUT_TORCH = """
import importlib, importlib.machinery, sys, types
find = importlib.machinery.PathFinder.find_spec
def found(name, path=None, target=None):
    return None if name.partition(".")[0] in ("torch", "torchvision") else find(name, path, target)
importlib.machinery.PathFinder.find_spec = found
travelled = sys.modules["travelled"] = types.ModuleType("travelled")
travelled.__path__ = [sys.argv[1]]
module = importlib.import_module("travelled." + sys.argv[2])
config = getattr(module, sys.argv[3])(**eval(sys.argv[4]))
assert eval(sys.argv[5], {"config": config})
assert not {"torch", "torchvision"} & set(sys.modules)
"""


CONFIGURATIONS = {  # file: its class, its fields, and what is asked of it
    "configuration_vision_text": (
        "VisionTextConfig",
        '{"vision_config": {"model_type": "vit"}}',
        "config.vision_config.hidden_size == 768",
    ),
    "configuration_image_tokenizer": ("ImageTokenizerConfig", "{'image_size': 32}", "config.vocab_size == 512"),
    "configuration_vision_language": ("VisionLanguageConfig", "{}", "config.image_token_id == 32000 - 1"),
    "configuration_text_to_image": ("TextToImageConfig", "{}", "config.text_config.vocab_size == 50257 + 1 + 512"),
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("configuration_*.py")), ids=lambda path: path.stem)
def test_configurations_are_built_where_there_is_no_torch(path):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(FOLDER), path.stem, *CONFIGURATIONS[path.stem]]
    subprocess.run(command, check=True)


THE_PACKAGE_AFTERWARDS = """
import sys
from transformers import AutoModel
def modules_of(model):
    return {type(one).__module__.partition(".")[0] for one in (model, model.config, model.text_model)}
assert modules_of(AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)) == {"transformers_modules"}
import hf_multimodal
assert modules_of(AutoModel.from_pretrained(sys.argv[1])) == {"hf_multimodal"}
"""


def test_the_package_is_imported_after_code_from_the_hub(tmp_path):
    make_model("vit", "recurrent_text:gru").save_pretrained(tmp_path)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", THE_PACKAGE_AFTERWARDS, str(tmp_path)]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)


def test_all_that_travels_is_pushed(tmp_path, monkeypatch):
    pushed: set[str] = set()

    def upload(self, folder, repo_id, timestamps, **kwargs):
        pushed.update(path.name for path in Path(folder).iterdir() if path.name not in timestamps)

    class Hub:
        def create_repo(self, repo_id, **kwargs):
            return self

        repo_id = "me/mine"

    monkeypatch.setattr(PreTrainedModel, "_upload_modified_files", upload)
    monkeypatch.setattr("transformers.modeling_utils.hf_api", Hub)
    make_model("torchvision:resnet18", "recurrent_text:gru").save_pretrained(
        tmp_path, push_to_hub=True, repo_id="mine"
    )
    assert pushed == {path.name for path in tmp_path.iterdir()} > {"modeling_torchvision.py", "config.json"}
