from tensorrt_llm.inputs.registry import BaseMultimodalInputProcessor

KEYS = ("mrope_config", "mrope_position_ids", "mrope_position_deltas", "multimodal_data")


class Qwen2VLInputProcessorBase(BaseMultimodalInputProcessor):
    def __init__(self, vocabulary):
        self.tllm_multimodal_token_id = vocabulary + 1
