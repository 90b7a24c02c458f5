"""Compare the calls of runtime/language/tensorrt_llm.py with the sources of a TensorRT-LLM; parsed, never imported.

    python tools/check_tensorrt_llm.py FOLDER      # a checkout, or an unpacked wheel: it holds tensorrt_llm/

Prints a line per call; exits with 1 where one does not fit. The package index only has a stub that fetches wheels of
gigabytes from NVIDIA's own: `git clone --depth 1 --branch v1.2.0 https://github.com/NVIDIA/TensorRT-LLM` is enough.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Way = Literal["engine", "checkpoint"]


@dataclass(frozen=True)
class Call:
    """A function, or the fields of a class, and the names we hand to it by position or keyword."""

    way: Way
    file: str
    where: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Words:
    """Names that a file must use as strings or attributes, because we put them into its data."""

    way: Way
    file: str
    names: tuple[str, ...]


CALLS = (
    Call(
        "engine",
        "runtime/model_runner_cpp.py",
        "ModelRunnerCpp.from_dir",
        ("engine_dir", "kv_cache_enable_block_reuse"),
    ),
    Call(
        "engine",
        "runtime/model_runner_cpp.py",
        "ModelRunnerCpp.generate",
        (
            "batch_input_ids",
            "max_new_tokens",
            "end_id",
            "pad_id",
            "streaming",
            "return_dict",
            "output_sequence_lengths",
            "prompt_table",
            "prompt_tasks",
            "input_token_extra_ids",
            "mrope_params",
        ),
    ),
    Call("engine", "layers/attention.py", "MropeParams.__init__", ("mrope_rotary_cos_sin", "mrope_position_deltas")),
    Call("checkpoint", "llmapi/llm.py", "BaseLLM.__init__", ("model",)),
    Call("checkpoint", "llmapi/llm.py", "BaseLLM.generate_async", ("inputs", "sampling_params", "streaming")),
    Call("checkpoint", "llmapi/llm.py", "BaseLLM.shutdown", ()),
    Call(
        "checkpoint",
        "llmapi/llm_args.py",
        "BaseLlmArgs",
        ("max_batch_size", "max_seq_len", "max_num_tokens", "kv_cache_config"),
    ),
    Call("checkpoint", "llmapi/llm_args.py", "KvCacheConfig", ("enable_block_reuse",)),
    Call("checkpoint", "sampling_params.py", "SamplingParams", ("max_tokens", "top_k")),
    Call("checkpoint", "executor/result.py", "CompletionOutput.text_diff", ()),
    Call(
        "checkpoint",
        "inputs/registry.py",
        "BaseMultimodalInputProcessor.attach_multimodal_embeddings",
        ("inputs", "multimodal_embedding", "sampling_params"),
    ),
)
WORDS = (
    Words("checkpoint", "llmapi/llm.py", ("multi_modal_embeddings", "input_processor", "tokenizer")),
    Words(
        "checkpoint",
        "_torch/models/modeling_qwen2vl.py",
        ("mrope_config", "mrope_position_ids", "mrope_position_deltas", "multimodal_data"),
    ),
    Words("checkpoint", "_torch/models/modeling_multimodal_utils.py", ("multimodal_embedding",)),
)


def check(root: Path) -> Iterator[tuple[Way, str, str]]:
    """(way, what, problem) per call and per set of words; the problem is empty where it fits."""
    for call in CALLS:
        tree = _parse(root / call.file)
        accepted = _accepted(tree, call.where) if tree else None
        if accepted is None:
            problem = "is not there"
        else:
            missing = [name for name in call.names if name not in accepted]
            problem = "" if not missing or "**" in accepted else f"does not take {', '.join(missing)}"
        yield call.way, f"{call.file}: {call.where}({', '.join(call.names)})", problem
    for words in WORDS:
        tree = _parse(root / words.file)
        used = _words(tree) if tree else set()
        missing = [name for name in words.names if name not in used]
        problem = "is not there" if tree is None else f"knows nothing of {', '.join(missing)}" if missing else ""
        yield words.way, f"{words.file}: {', '.join(words.names)}", problem


def version(root: Path) -> str:
    """What version.py says; "unknown" where it says nothing."""
    tree = _parse(root / "version.py")
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            return str(node.value.value)
    return "unknown"


def _parse(path: Path) -> ast.Module | None:
    return ast.parse(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None


def _accepted(tree: ast.Module, where: str) -> set[str] | None:
    """Names a function takes, or fields of a class and of its bases in the file; None where it is absent."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    name, _, method = where.partition(".")
    if name not in classes:
        return None
    if method:
        for node in classes[name].body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == method:
                arguments = node.args
                listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                return {argument.arg for argument in listed} | ({"**"} if arguments.kwarg else set())
        return None
    fields: set[str] = set()
    pending = [name]
    while pending:
        found = classes.get(pending.pop())
        for node in found.body if found else ():
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                fields.add(node.target.id)
        pending += [base.id for base in (found.bases if found else ()) if isinstance(base, ast.Name)]
    return fields


def _words(tree: ast.Module) -> set[str]:
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return strings | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def main() -> int:
    """Parse the arguments, print the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds tensorrt_llm/")
    root = parser.parse_args().folder / "tensorrt_llm"
    if not root.is_dir():
        print(f"{root} is no folder", file=sys.stderr)
        return 2
    print(f"tensorrt_llm {version(root)} at {root}")
    fits = {"engine": True, "checkpoint": True}
    for way, what, problem in check(root):
        fits[way] &= not problem
        print(f"{'✗' if problem else '✓'} [{way}] {what}{f': {problem}' if problem else ''}")
    print(", ".join(f"{way}: {'fits' if good else 'does not fit'}" for way, good in fits.items()))
    return 0 if all(fits.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
