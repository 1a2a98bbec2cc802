"""Texts longer than the text model reads: said at the door and by the model, before an error about tensors."""

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from transformers import AutoModel

from hf_multimodal import FusionConfig, FusionForImageTextClassification, MultimodalProcessor
from hf_multimodal.training.from_scratch import train_tokenizer

# The tables have 40 positions; RoBERTa's kin begin to count behind the padding's, number 1.
LONGEST = {"bert": 40, "roberta": 38, "distilbert": 40, "xlm-roberta": 38, "mpnet": 38, "clip_text_model": 40}
LONGEST |= {"siglip_text_model": 40, "gpt2": 40, "albert": 40, "mobilebert": 40, "aimv2_text_model": 40}
LONGEST |= {"chinese_clip_text_model": 40}


@pytest.mark.parametrize("text", TEXT_CONFIGS)
def test_a_model_says_how_long_its_texts_may_be(text):
    config = FusionConfig(text_config=TEXT_CONFIGS[text](), hidden_size=8, num_labels=2)
    model = FusionForImageTextClassification(config).eval()
    longest = LONGEST.get(text)
    fits = torch.full((2, longest or 60), 5)
    assert model(input_ids=fits, attention_mask=torch.ones_like(fits)).logits.shape == (2, 2)
    if longest is not None:
        with pytest.raises(
            ValueError, match=rf"input_ids are {longest + 1} tokens long, .* reads {longest}: leave the"
        ):
            model(input_ids=torch.full((2, longest + 1), 5))


@pytest.mark.parametrize(("text", "longest"), [("bert", 40), ("roberta", 38), ("mpnet", 38), ("t5", None)])
def test_a_processor_cuts_where_the_text_model_ends(text, longest, tmp_path):
    AutoModel.from_config(TEXT_CONFIGS[text]()).save_pretrained(tmp_path)
    tokenizer = train_tokenizer(["a red square"])
    tokenizer.model_max_length = 1000
    tokenizer.save_pretrained(tmp_path)
    processor = MultimodalProcessor.from_vision_text_pretrained(None, str(tmp_path))
    long = processor(text=["a red square " * 400], return_tensors="pt")["input_ids"]
    assert long.shape[1] == (longest or 1000)
    with pytest.raises(ValueError, match=rf"the text of row 1 has 1202 tokens, .* reads {longest or 1000} "):
        processor(text=["a", "a red square " * 400], truncation=False)


def test_the_check_stays_out_of_an_exported_model(batch):
    config = FusionConfig(vision_config=VISION_CONFIGS["vit"](), text_config=TEXT_CONFIGS["bert"](), hidden_size=8)
    model = FusionForImageTextClassification(config).eval()
    exported = torch.export.export(model, (), batch, strict=False)
    assert torch.allclose(exported.module()(**batch).logits, model(**batch).logits, atol=1e-6)
