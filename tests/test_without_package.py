"""A person who has never heard of this package loads what was trained with it."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import make_batch
from test_fusion_model import make_model
from test_processor import make_image_processor, make_tokenizer, picture
from transformers import AutoModel

from hf_multimodal import (
    AlignerModel,
    FusionForImageTextClassification,
    MultimodalProcessor,
    RobustFusionForImageTextClassification,
)

HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_multimodal":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
"""
STRANGER = (
    HIDE
    + """
import torch, json
from PIL import Image
import transformers
from transformers import AutoConfig, AutoModel, AutoProcessor
folder, batch, again, logits, auto_class, output = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
also = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
batch = torch.load(batch)
with torch.no_grad():
    torch.save([model(**batch)[output], also(**batch)[output]], logits)
model.save_pretrained(again)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
out = processor(images=[Image.new("RGB", (10, 6), (200, 10, 10)), None], text=["a red dog", None], return_tensors="pt")
assert "hf_multimodal" not in sys.modules
print(json.dumps({"config": type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__,
                  "mask": out["modality_mask"].tolist(), "ids": out["input_ids"].tolist()}))
"""
)


@pytest.mark.parametrize(
    ("vision", "text", "family", "fields"),
    [
        ("vit", "bert", FusionForImageTextClassification, {"fusion": "concat"}),
        (
            "torchvision:resnet18",
            "recurrent_text:gru",
            FusionForImageTextClassification,
            {"fusion": "cross_attention"},
        ),
        ("vit", "bert", RobustFusionForImageTextClassification, {"fusion": "concat"}),
        ("vit", "bert", AlignerModel, {"loss": "sigmoid", "projection": "mlp"}),
    ],
)
def test_a_saved_folder_loads_without_the_package(vision, text, family, fields, tmp_path):
    folder, again = tmp_path / "model", tmp_path / "again"
    model = make_model(vision, text, family, **fields).eval()
    auto_class = model.auto_classes[1]
    output = "logits" if auto_class == "AutoModelForSequenceClassification" else "logits_per_image"
    model.save_pretrained(folder)
    MultimodalProcessor(make_image_processor(), make_tokenizer()).save_pretrained(folder)
    batch = make_batch()
    torch.save(batch, tmp_path / "batch.pt")
    arguments = [folder, tmp_path / "batch.pt", again, tmp_path / "logits.pt", auto_class, output]
    run = subprocess.run(
        [sys.executable, "-c", STRANGER, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    said = json.loads(run.stdout.splitlines()[-1])
    assert said["config"] == family.config_class.__name__ and said["mask"] == [[1, 1], [0, 0]]
    here = MultimodalProcessor.from_pretrained(folder)(images=[picture(), None], text=["a red dog", None])
    assert said["ids"] == here["input_ids"]
    for source in (folder, again):  # what the stranger saved is as good as what was sent
        loaded = AutoModel.from_pretrained(source, trust_remote_code=False)
        with torch.no_grad():
            expected = loaded(**batch)[output]
        for logits in torch.load(tmp_path / "logits.pt"):
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
        travelled = {
            name for name, tensor in model.state_dict().items() if torch.equal(tensor, loaded.state_dict()[name])
        }
        assert travelled == set(model.state_dict())


def test_importing_the_package_leaves_out_what_only_retrieval_needs():
    heavy = "{'datasets', 'sklearn'} & set(sys.modules)"
    code = f"import sys, hf_multimodal as h; assert not {heavy}; h.Retriever, h.ZeroShotClassifier; assert {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
