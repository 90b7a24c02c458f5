import torch

ANSWER = [5, 6, 7]
calls = []


class ModelRunnerCpp:
    @classmethod
    def from_dir(cls, engine_dir, *, max_output_len=None, kv_cache_free_gpu_memory_fraction=None,
                 kv_cache_enable_block_reuse=False, mm_embedding_offloading=False):  # fmt: skip
        runner = cls()
        runner.folder, runner.reuse = engine_dir, kv_cache_enable_block_reuse
        return runner

    def generate(
        self,
        batch_input_ids,
        *,
        position_ids=None,
        mrope_params=None,
        sampling_config=None,
        streaming=False,
        max_new_tokens=1,
        end_id=None,
        pad_id=None,
        return_dict=False,
        output_sequence_lengths=False,
        prompt_table=None,
        prompt_tasks=None,
        input_token_extra_ids=None,
        mm_embedding_offloading=False,
        **kwargs,
    ):
        calls.append({name: value for name, value in locals().items() if name not in ("self", "kwargs")})
        # What the real one asserts before it hands anything to C++.
        assert not kwargs and streaming and return_dict and output_sequence_lengths
        ids = [one.tolist() for one in batch_input_ids]
        if input_token_extra_ids:
            assert len(ids) == len(input_token_extra_ids)
        if prompt_table is not None:
            assert len(prompt_tasks.split(",")) == len(ids)
        if mrope_params is not None:
            assert isinstance(mrope_params.mrope_rotary_cos_sin, torch.Tensor)
            assert isinstance(mrope_params.mrope_position_deltas, torch.Tensor)
        room = len(ids[0]) + max_new_tokens + 4
        for count in range(1, min(max_new_tokens, len(ANSWER)) + 1):
            said = ids[0] + ANSWER[:count]
            padded = said + [end_id] * (room - len(said))
            yield {"output_ids": torch.tensor([[padded]], dtype=torch.int32),
                   "sequence_lengths": torch.tensor([[len(said)]], dtype=torch.int32)}  # fmt: skip
