from tensorrt_llm.layers.attention import MropeParams

__all__ = ["MropeParams"]
