class BaseMultimodalInputProcessor:
    def attach_multimodal_embeddings(self, inputs, multimodal_embedding, sampling_params):
        raise NotImplementedError("Input processor does not support multimodal embedding input")
