from dataclasses import dataclass


@dataclass
class SamplingParams:
    end_id: int = None
    max_tokens: int = 32
    top_k: int = None
    temperature: float = None
