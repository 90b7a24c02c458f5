"""Signatures of TensorRT-LLM as read in its sources, with bodies that note what they are given; for tests only.

Read at NVIDIA/TensorRT-LLM 03832911 (model_runner_cpp.py), 000a01de = 1.0.0rc4 and c666e7ea (modeling_qwen2vl.py).
"""

from tensorrt_llm.llmapi.llm import LLM
from tensorrt_llm.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]
