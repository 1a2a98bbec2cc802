"""`MultimodalProcessor` under the tests that transformers holds its own processors to."""

import unittest
from typing import Any

from peer.test_processing_common import ProcessorTesterMixin
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessor, CLIPProcessor, PreTrainedTokenizerFast

from hf_multimodal import MultimodalProcessor

WORDS = ("[UNK]", "[PAD]", "lower", "newer", "upper", "older", "longer", "string")


class ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MultimodalProcessor

    @classmethod
    def _setup_image_processor(cls) -> Any:
        return CLIPImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 18, "width": 18})

    @classmethod
    def _setup_tokenizer(cls) -> Any:
        words = models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
        tokenizer = Tokenizer(words)
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")


class ReferenceProcessorTest(ProcessorTest):
    processor_class = CLIPProcessor
