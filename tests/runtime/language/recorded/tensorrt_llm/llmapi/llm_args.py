from dataclasses import dataclass


@dataclass
class KvCacheConfig:
    enable_block_reuse: bool = True


@dataclass
class BaseLlmArgs:
    max_batch_size: int = None
    max_seq_len: int = None
    max_num_tokens: int = 8192
    kv_cache_config: KvCacheConfig = None
