"""torchvision's classifiers as vision models: what they put out, how they start, save, travel through export."""

import copy
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models
from transformers import AutoConfig, AutoModel

from hf_multimodal.models import modeling_torchvision
from hf_multimodal.models.modeling_torchvision import TorchvisionConfig, TorchvisionModel

AutoConfig.register("torchvision_backbone", TorchvisionConfig, exist_ok=True)
AutoModel.register(TorchvisionConfig, TorchvisionModel, exist_ok=True)

# architecture, hidden_size, feature_channels, map of a 64 x 64 image
WIDTHS = [
    ("resnet18", 512, 512, 2),
    ("resnet50", 2048, 2048, 2),
    ("efficientnet_b0", 1280, 1280, 2),
    ("mobilenet_v3_small", 1024, 576, 2),
    ("vgg16", 4096, 512, 2),
    ("swin_t", 768, 768, 2),
    ("densenet121", 1024, 1024, 2),
    ("regnet_y_400mf", 440, 440, 2),
]
LIGHT = ["resnet18", "efficientnet_b0", "mobilenet_v3_small", "shufflenet_v2_x0_5"]


def build(architecture: str) -> TorchvisionModel:
    """A random network whose BatchNorm statistics are those of a batch: untrained ones let the signal die out."""
    torch.manual_seed(0)
    model = TorchvisionModel(TorchvisionConfig(architecture=architecture, image_size=64))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(torch.randn(8, 3, 64, 64))
    return model.eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("architecture", "hidden_size", "channels", "side"), WIDTHS)
def test_pooled_feature_is_what_the_last_linear_layer_reads(architecture, hidden_size, channels, side, pixels):
    model = build(architecture)
    original = models.get_model(architecture, weights=None).eval()
    original.load_state_dict(model.network.state_dict(), strict=False)  # only the last layer is its own
    linear = [module for module in original.modules() if isinstance(module, nn.Linear)][-1]
    read = []
    linear.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    with torch.no_grad():
        original(pixels)
        output = model(pixels)
    assert torch.equal(output.pooler_output, read[0])
    assert output.pooler_output.shape == (3, hidden_size)
    assert output.pooler_output.std() > 1e-3
    assert output.last_hidden_state.shape == (3, channels, side, side)
    assert (model.config.hidden_size, model.config.feature_channels) == (hidden_size, channels)


def test_feature_map_is_the_one_before_the_pooling(pixels):
    output = build("resnet18")(pixels)
    torch.testing.assert_close(output.last_hidden_state.mean((2, 3)), output.pooler_output)


def test_a_vit_gives_tokens_with_the_class_token_first():
    model = TorchvisionModel(TorchvisionConfig(architecture="vit_b_32", image_size=64)).eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 64))
    assert output.last_hidden_state.shape == (2, 1 + 4, 768)
    assert torch.equal(output.last_hidden_state[:, 0], output.pooler_output)


def test_initialisation_is_torchvisions_own():
    torch.manual_seed(0)
    expected = models.resnet18().state_dict()
    torch.manual_seed(0)
    model = AutoModel.from_config(TorchvisionConfig(architecture="resnet18"))
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("architecture", LIGHT)
def test_save_and_load_are_bit_equal(architecture, pixels, tmp_path):
    model = build(architecture)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    # Kernels round by where tensors lie in memory, and those of a file lie anywhere: copies lie as in a new model
    loaded.load_state_dict({name: tensor.clone() for name, tensor in loaded.state_dict().items()}, assign=True)
    for mine, other in zip(model(pixels).to_tuple(), loaded(pixels).to_tuple(), strict=True):
        assert torch.equal(mine, other)


def test_tensors_that_a_checkpoint_lacks_get_torchvisions_initialisation(tmp_path):
    model = build("resnet18")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    missing = {"network.layer4.1.conv2.weight", "network.bn1.weight", "network.bn1.running_var"}
    save_file({k: v for k, v in tensors.items() if k not in missing}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, info = TorchvisionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == missing
    assert torch.equal(loaded.network.bn1.weight, torch.ones(64))
    assert torch.equal(loaded.network.bn1.running_var, torch.ones(64))
    deviation = loaded.network.layer4[1].conv2.weight.std().item()
    assert deviation == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)  # Kaiming, fan out
    assert torch.equal(loaded.network.conv1.weight, tensors["network.conv1.weight"])


@pytest.mark.parametrize("architecture", LIGHT)
def test_batch_permutation_and_gradient(architecture, pixels):
    model, pixels = build(architecture).double(), pixels.double()
    order = torch.tensor([2, 0, 1])
    output = model(pixels)
    for given, permuted in zip(output.to_tuple(), model(pixels[order]).to_tuple(), strict=True):
        torch.testing.assert_close(permuted, given[order], rtol=0, atol=1e-12)
    output.pooler_output.pow(2).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name.endswith("weight"))


SLOW = [pytest.param(architecture, marks=pytest.mark.slow) for architecture in ("densenet121", "swin_t")]


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", *SLOW])
def test_export_and_compile_equal_eager(architecture, pixels):
    model = build(architecture)
    with torch.no_grad():
        expected = model(pixels)
        exported = torch.export.export(model, (pixels,), dynamic_shapes={"pixel_values": {0: torch.export.Dim("b")}})
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for other in (exported.module()(pixels), compiled(pixels)):
            for name in ("last_hidden_state", "pooler_output"):
                torch.testing.assert_close(other[name], expected[name], rtol=0, atol=1e-5)
        assert exported.module()(pixels[:2])["pooler_output"].shape[0] == 2


def test_forward_keeps_nothing_and_the_model_can_be_copied(pixels):
    model = build("resnet18")
    expected = model(pixels).pooler_output
    assert not hasattr(model.network.layer4, "kept_output")
    assert torch.equal(copy.deepcopy(model)(pixels).pooler_output, expected)
    as_tuple = model(pixels, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[1], expected)


def test_from_torchvision_takes_a_state_dict_without_its_last_layer(pixels):
    original = models.mobilenet_v3_small(num_classes=5).eval()
    model = TorchvisionModel.from_torchvision("mobilenet_v3_small", original.state_dict(), image_size=64).eval()
    original.classifier[3] = nn.Identity()
    assert torch.equal(model(pixels).pooler_output, original(pixels))
    assert model.config.image_size == 64


@pytest.mark.parametrize(("architecture", "image_size"), [("resnet18", 224), ("densenet121", 224), ("googlenet", 224)])
def test_from_torchvision_takes_named_weights(architecture, image_size, monkeypatch):
    options = {"init_weights": False} if architecture == "googlenet" else {}
    original = models.get_model(architecture, weights=None, **options).eval()
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: original.state_dict())
    model = TorchvisionModel.from_torchvision(architecture, "IMAGENET1K_V1")
    assert model.config.image_size == image_size
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, original.state_dict()[name]), name


def test_from_torchvision_errors():
    with pytest.raises(ValueError, match=r"weights of resnet18 must be one of \['IMAGENET1K_V1'.*got 'IMAGENET'"):
        TorchvisionModel.from_torchvision("resnet18", "IMAGENET")
    with pytest.raises(ValueError, match=r"Did you mean 'resnet18'"):
        TorchvisionModel.from_torchvision("resnet-18")
    state = models.resnet18().state_dict()
    with pytest.raises(ValueError, match=r"weights do not fit resnet34: missing keys \['layer1.2.conv1.weight'"):
        TorchvisionModel.from_torchvision("resnet34", state)
    with pytest.raises(ValueError, match=r"unexpected keys \['extra.weight'\]"):
        TorchvisionModel.from_torchvision("resnet18", {**state, "extra.weight": torch.zeros(1)})


def test_config_errors():
    with pytest.raises(
        ValueError, match=r"must be one of \['alexnet'.*got 'efficientnet-b0'. Did you mean 'efficientnet_b0'"
    ):
        TorchvisionConfig(architecture="efficientnet-b0")
    with pytest.raises(ValueError, match="squeezenet1_0 has no linear layer"):
        TorchvisionConfig(architecture="squeezenet1_0")
    with pytest.raises(ValueError, match="vgg16 cannot read images of image_size=16"):
        TorchvisionConfig(architecture="vgg16", image_size=16)
    with pytest.raises(ValueError, match="vit_b_16 cannot read images of image_size=100"):
        TorchvisionConfig(architecture="vit_b_16", image_size=100)
    stale = TorchvisionConfig(architecture="resnet50", hidden_size=512, feature_channels=512)
    with pytest.raises(ValueError, match=re.escape("hidden_size of resnet50 is 2048, the configuration has 512")):
        TorchvisionModel(stale)


def test_config_stores_its_widths_and_measures_them_once(tmp_path, monkeypatch):
    TorchvisionConfig(architecture="resnet18").save_pretrained(tmp_path)
    monkeypatch.setattr(modeling_torchvision, "build_network", None)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert (loaded.architecture, loaded.hidden_size, loaded.feature_channels) == ("resnet18", 512, 512)


def test_every_architecture_has_a_last_linear_layer_and_a_feature_layer():
    names = [name for name in models.list_models(module=models) if not name.startswith("squeezenet")]
    assert len(names) >= 78
    for name in names[:: len(names) // 12]:  # the whole list takes half a minute
        config = TorchvisionConfig(architecture=name)
        assert config.hidden_size > 0 and config.feature_channels > 0
