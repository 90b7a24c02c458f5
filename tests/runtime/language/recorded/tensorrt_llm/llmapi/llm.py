import json
from pathlib import Path

from tensorrt_llm._torch.models.modeling_qwen2vl import Qwen2VLInputProcessorBase
from tensorrt_llm.executor.result import CompletionOutput

calls = []


class Letters:
    def encode(self, text, add_special_tokens=True):
        return list(text.encode())


class BaseLLM:
    def __init__(self, model, **kwargs):
        self.kwargs = kwargs
        vocabulary = json.loads((Path(model) / "config.json").read_text())["vocab_size"]
        self.input_processor = Qwen2VLInputProcessorBase(vocabulary)
        self.tokenizer = Letters()

    def generate_async(self, inputs, sampling_params=None, streaming=False):
        prepared = None
        if "multi_modal_embeddings" in inputs:
            prepared = self.input_processor.attach_multimodal_embeddings(
                inputs, inputs["multi_modal_embeddings"], sampling_params
            )
        calls.append({"inputs": inputs, "sampling": sampling_params, "prepared": prepared})
        for piece in ("it ", "moved")[: sampling_params.max_tokens]:
            yield type("RequestOutput", (), {"outputs": [CompletionOutput(piece)]})()

    def shutdown(self):
        self.input_processor = None


class LLM(BaseLLM):
    pass
