"""The patterns of presence stand once, beside the configurations; whatever cannot import them says the same."""

import torch

from hf_multimodal.cli import arguments
from hf_multimodal.hub import sections
from hf_multimodal.models.configuration_vision_text import MODALITIES, PRESENCE_PATTERNS
from hf_multimodal.models.modeling_robust_fusion import PATTERNS, pattern_of
from hf_multimodal.synthetic import classification


def test_the_stack_numbers_the_patterns_by_their_masks():
    assert PATTERNS == ("neither", "image", "text", "both")  # the order of the buffers of every saved model
    numbers = pattern_of(torch.tensor(list(PRESENCE_PATTERNS.values())).long())
    assert [PATTERNS[number] for number in numbers] == list(PRESENCE_PATTERNS)


def test_flags_cards_and_generated_tasks_know_the_same_patterns():
    assert arguments.MODALITIES == MODALITIES == ("both", "image", "text")
    assert list(sections.PATTERNS) == list(PRESENCE_PATTERNS)
    assert set(classification.MODALITIES) == set(PRESENCE_PATTERNS)
