"""A tiny configuration of every model type of transformers, for `model_types.py`."""

import dataclasses
import re
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

VOCABULARY = 64
WIDTH = 16
# What a field becomes whose whole name the pattern matches; the first that does. Widths that a model may take for one
# another differ. Those of several stages grow, the rest of a list is alike.
FIELDS = {
    8: "head_dim|d_kv|.*_head_dim|.*state_size|mamba_d_head|mamba_d_state|rotary_dim|qk_dim|time_step_rank",
    4: ".*num_experts|num_local_experts|n_routed_experts|num_routed_experts|mamba_n_heads|mamba_num_heads|"
    "n_mamba_heads|linear_num_.*heads",
    2: "n_layers?|.*num_layers|.*_layers|depths?|num_(block|conv)s?|.*blocks|n_heads?|.*num_heads|.*_heads|"
    "num_experts_per_tok.*|top_k_experts|router_topk|moe_top_?k|moe_k",
    1: "n_groups?|topk_group|mamba_n_?groups",
    64: ".*vocab_size.*|.*max_position_embeddings|n_positions|max_seq_len.*|n_ctx|max_(source|target)_positions|"
    "index_topk|max_sequence_length|context_length",
    32: "(.*_)?image_size|img_size|input_size|mamba_d_ssm",
    24: ".*_(hidden|embedding)_size|embedding_(size|dim)|.*intermediate_size.*|.*ffn_dim|hidden_dim|d_ff|d_inner|"
    "dim_ff|n_inner|feed_forward_size|.*_size_per_layer_input|projection_(size|dim)|.*_proj_dim|.*_channels|.*lora_rank",
    WIDTH: "hidden_sizes?|d_model|n_embd|.*dims?|.*_dim_.*|lru_width|d_embed|head_size|.*widths",
}
PATTERNS = {size: re.compile(pattern) for size, pattern in FIELDS.items()}
KEPT = re.compile("num_channels|type_vocab_size|num_encoder_blocks|num_kv_shared_layers|.*_token_.*")
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "decoder_start_token_id": 1, "sep_token_id": 3}
TOKENS |= {"eos_token_id": 3, "mask_token_id": 4}
DEFAULT = object()  # below: leave the field as it is by default

SECTIONS: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
SECTIONS["rope_parameters"] |= {"partial_rotary_factor": 1.0}
SWIN = {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
RESNET = {"architecture": "resnet10t", "model_args": {"channels": (8, 8, 8, 8), "stem_width": 8}}
LONG = {"attention_window": 4}
# Where the names do not say it. The sizes are such that texts of 24 tokens are longer than any window, block or chunk.
OVERRIDES: dict[str, dict[str, Any]] = {
    "big_bird": {"block_size": 2, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 2, "num_random_blocks": 1},
    "bit": {"num_groups": 2},
    "codegen": {"n_head": 4, "rotary_dim": 4},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "cosmos3_edge_text": SECTIONS,
    "cvt": {"depth": (1, 2, 3)},  # its third stage reads the third entry of a list that is as long as the stage
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 1, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 16, "hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dinov3_convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "donut-swin": SWIN,
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "efficientnet": {
        "width_coefficient": 0.1,
        "depth_coefficient": 0.1,
        "hidden_dim": 128,
        "in_channels": DEFAULT,
        "out_channels": DEFAULT,
    },
    "esm": {"vocab_size": VOCABULARY},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma3n_vision": {"hidden_size": 8, **RESNET},
    "glm4v_moe_text": SECTIONS,
    "glm4v_text": SECTIONS,
    "glm_image_text": SECTIONS,
    "glm_ocr_text": SECTIONS,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "granite_docling_vision": {"scale_factor": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hunyuan_vl_text": {"head_dim": 8, **SECTIONS},
    "led": LONG,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lilt": {"hidden_size": 24},
    "longcat_flash": {"qk_head_dim": 16, "zero_expert_num": 1},
    "longformer": LONG,
    "longt5": {"encoder_attention_type": "transient-global", "local_radius": 3, "global_block_size": 4},
    "mamba2": {"num_heads": 4},
    "maskformer-swin": SWIN,
    "ministral": {"head_dim": 8},
    "mimo_v2_flash": {"num_key_value_heads": 1},
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 64},
    "mobilenet_v2": {"depth_multiplier": 0.1, "image_size": 64},
    "mobilevit": {"image_size": 64},
    "mobilevitv2": {"image_size": 64},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "opt": {"word_embed_proj_dim": 24},
    "qwen2_5_vl_text": SECTIONS,
    "qwen2_vl_text": SECTIONS,
    "sam2_hiera_det_model": {
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 24, 32],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "image_size": [224, 224],
        "num_query_pool_stages": 3,
        "global_attention_blocks": [3],
    },
    "squeezebert": {"embedding_size": WIDTH},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {"stem_out_channels": WIDTH},
    "timm_wrapper": RESNET,
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"]},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"]},
}


def shrunk(field: dataclasses.Field) -> Any:
    """What a field becomes, or `DEFAULT`."""
    value = field.default
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if not numbers or KEPT.fullmatch(field.name) or not all(type(number) is int for number in numbers):
        return DEFAULT
    size = next((size for size, pattern in PATTERNS.items() if pattern.fullmatch(field.name)), None)
    if size is None:
        return DEFAULT
    if isinstance(value, (list, tuple)):
        return [size * (place + 1 if size == WIDTH else 1) for place in range(len(numbers))]
    return min(size, value)


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The configuration of a model type, with the widths, depths and numbers small that its fields' names say."""
    config_class = CONFIG_MAPPING[model_type]
    declared = dataclasses.fields(config_class)
    fields = {field.name: shrunk(field) for field in declared}
    fields |= {name: token for name, token in TOKENS.items() if name in fields}
    fields |= OVERRIDES.get(model_type, {})
    return config_class(**{name: value for name, value in fields.items() if value is not DEFAULT})
