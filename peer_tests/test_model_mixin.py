"""The three families, each over two pairs of inner models, under the tests of transformers' own models."""

import unittest
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from peer.test_modeling_common import ModelTesterMixin
from transformers import BertConfig, CLIPModel, PreTrainedConfig, PreTrainedModel, Qwen2Config, ResNetConfig, ViTConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from hf_multimodal import AlignerModel, FusionForImageTextClassification, RobustFusionForImageTextClassification
from hf_multimodal.models import modeling_vision_text

BATCH, LENGTH, WIDTH, HEADS, LAYERS, VOCABULARY = 5, 7, 16, 2, 2, 50
STATES_OF_TWO = "two inner models have two lists of states, in vision_model_output and text_model_output"
SIZES = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": WIDTH}


class FamilyTester:
    """What the mixin asks for a small configuration and a batch."""

    batch_size = BATCH
    seq_length = LENGTH
    hidden_size = WIDTH
    num_hidden_layers = LAYERS
    num_attention_heads = HEADS
    is_training = True

    def __init__(self, model_class: type[PreTrainedModel], fields: dict[str, Any], image_size: int) -> None:
        self.model_class, self.fields, self.image_size = model_class, fields, image_size

    def get_config(self) -> PreTrainedConfig:
        return self.model_class.config_class(**{name: make() for name, make in self.fields.items()})

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, Any]]:
        lengths = torch.randint(3, LENGTH + 1, (BATCH, 1))
        inputs = {
            "input_ids": torch.randint(1, VOCABULARY, (BATCH, LENGTH)),
            "pixel_values": torch.rand(BATCH, 3, self.image_size, self.image_size),
            "attention_mask": (torch.arange(LENGTH) < lengths).long(),
        }
        return self.get_config(), {
            **inputs,
            **({"return_loss": True} if self.model_class in (AlignerModel, CLIPModel) else {}),
        }


class FamilyTest(ModelTesterMixin):
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True  # it judges by a year in the file, which ours do not name
    additional_model_inputs: ClassVar[list[str]] = ["pixel_values"]
    fields: ClassVar[dict[str, Any]] = {}

    def setUp(self) -> None:
        self.model_tester = FamilyTester(self.all_model_classes[0], {**self.pair, **self.fields}, self.image_size)

    def test_reverse_loading_mapping(self) -> None:
        # All but one check: ours save today's names of parameters, as `Trainer` does not find those of the past.
        super().test_reverse_loading_mapping(check_keys_were_modified=False)

    def test_model_forward_default_config_values(self) -> None:
        # It runs over AutoModel's own list. Entered there for good, ours would leave the tests of training.
        model_class = self.all_model_classes[0]
        with patch.dict(MODEL_MAPPING_NAMES, {model_class.config_class.model_type: model_class.__name__}):
            super().test_model_forward_default_config_values()

    def test_model_weights_reload_no_missing_tied_weights(self) -> None:
        # Its file holds no weight, which ours refuse. What they find missing is looked at all the same.
        if self.all_model_classes != (CLIPModel,):
            with self.assertRaisesRegex(ValueError, "its weights are not those that its configuration asks for"):
                super().test_model_weights_reload_no_missing_tied_weights()
        with patch.multiple(modeling_vision_text, check_keys=lambda *_, **__: None, check_finite=lambda *_: None):
            super().test_model_weights_reload_no_missing_tied_weights()

    @unittest.skip(STATES_OF_TWO)
    def test_hidden_states_output(self) -> None: ...

    @unittest.skip(STATES_OF_TWO)
    def test_attention_outputs(self) -> None: ...

    @unittest.skip(STATES_OF_TWO)
    def test_retain_grad_hidden_states_attentions(self) -> None: ...


class Transformers(FamilyTest):
    """Two models with attention."""

    image_size = 16
    pair: ClassVar[dict[str, Any]] = {
        "vision_config": lambda: ViTConfig(image_size=16, patch_size=8, hidden_size=WIDTH, **SIZES),
        "text_config": lambda: BertConfig(
            vocab_size=VOCABULARY, max_position_embeddings=40, hidden_size=WIDTH, **SIZES
        ),
        "hidden_size": lambda: WIDTH,
    }


class Mixed(FamilyTest):
    """A convolutional model with BatchNorm, and a decoder."""

    image_size = 32
    skip_test_image_features_output_shape = True  # it reads a hidden_size, which ResNet's configuration has not
    pair: ClassVar[dict[str, Any]] = {
        "vision_config": lambda: ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        ),
        "text_config": lambda: Qwen2Config(
            vocab_size=VOCABULARY, max_position_embeddings=40, hidden_size=WIDTH, num_key_value_heads=1, **SIZES
        ),
        "hidden_size": lambda: WIDTH,
    }


class FusionTransformersTest(Transformers, unittest.TestCase):
    all_model_classes = (FusionForImageTextClassification,)
    fields: ClassVar[dict[str, Any]] = {"fusion": lambda: "cross_attention"}


class FusionMixedTest(Mixed, unittest.TestCase):
    all_model_classes = (FusionForImageTextClassification,)
    fields: ClassVar[dict[str, Any]] = {"fusion": lambda: "gated"}


class RobustFusionTransformersTest(Transformers, unittest.TestCase):
    all_model_classes = (RobustFusionForImageTextClassification,)


class RobustFusionMixedTest(Mixed, unittest.TestCase):
    all_model_classes = (RobustFusionForImageTextClassification,)


class AlignerTransformersTest(Transformers, unittest.TestCase):
    all_model_classes = (AlignerModel,)


class AlignerMixedTest(Mixed, unittest.TestCase):
    all_model_classes = (AlignerModel,)
    fields: ClassVar[dict[str, Any]] = {"loss": lambda: "sigmoid"}

    @unittest.skip("ResNet has no attention")
    def test_get_image_features_attentions(self) -> None: ...


class ReferenceModelTest(FamilyTest, unittest.TestCase):
    """`CLIPModel`, skipping what its own test file skips: what our list calls skipped by CLIP too is skipped here."""

    all_model_classes = (CLIPModel,)
    image_size = 16
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = False
    pair: ClassVar[dict[str, Any]] = {
        "vision_config": lambda: {"image_size": 16, "patch_size": 8, "hidden_size": WIDTH, **SIZES},
        "text_config": lambda: {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "eos_token_id": 1, **SIZES},
    }

    @unittest.skip("CLIPModel has none")
    def test_model_get_set_embeddings(self) -> None: ...
