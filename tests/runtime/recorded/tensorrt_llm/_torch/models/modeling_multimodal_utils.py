KEYS = ("multimodal_embedding",)
