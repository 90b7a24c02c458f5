from tensorrt_llm.runtime.model_runner_cpp import ModelRunnerCpp

__all__ = ["ModelRunnerCpp"]
