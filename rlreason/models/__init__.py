"""The Flax (linen) transformer, its cache and its heads. Parameters are plain nested dicts."""

from rlreason.models.cache import (
    LayerCache, grow as grow_cache, init as init_caches, keep_rows, take_rows)
from rlreason.models.config import (
    DynamicRopeScaling, LinearRopeScaling, Llama3RopeScaling, LoRAConfig, ModelConfig,
    YarnRopeScaling, with_tokens)
from rlreason.models.groups import forward_groups, pack, packed_features, unpack
from rlreason.models.heads import (
    apply_value_head, init_reward_head, init_value_head, num_classes, reward_of_rows)
from rlreason.models.transformer import (
    abstract_boxed_params, abstract_params, boxed_params, cap_logits, decode_step, extend,
    forward, forward_and_balance, init_adapters, init_params, logits, prefill, split_layers,
    token_log_probs, unembedding)

__all__ = [
    "DynamicRopeScaling", "LayerCache", "LinearRopeScaling", "Llama3RopeScaling", "LoRAConfig",
    "ModelConfig", "YarnRopeScaling", "abstract_boxed_params", "abstract_params",
    "apply_value_head", "boxed_params", "cap_logits", "decode_step", "extend", "forward",
    "forward_and_balance", "forward_groups", "grow_cache", "init_adapters", "init_caches",
    "init_params", "init_reward_head", "init_value_head", "keep_rows", "logits", "num_classes",
    "pack", "packed_features", "prefill", "reward_of_rows", "split_layers", "take_rows",
    "token_log_probs", "unembedding", "unpack", "with_tokens"]
