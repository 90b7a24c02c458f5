"""Runs `score-edge` again and again in processes forked from one that has the heavy packages imported already.

Every line on standard input is a request in JSON; every line on standard output an exit code. Our own modules are
imported by each fork anew, so that they see its environment and its streams.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import sys

import score_edge  # noqa: F401  # before onnxruntime, as everywhere

for heavy in ("numpy", "cv2", "onnxruntime", "llama_cpp", "rich.console", "rich.progress", "typer.main", "torch"):
    with contextlib.suppress(ImportError):
        importlib.import_module(heavy)


def become(request: dict) -> None:
    """Be what a shell would have started."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, path in enumerate(request["streams"]):
        if path == "closed":
            os.close(number)
        elif path == "gone":
            read, write = os.pipe()
            os.close(read)
            os.dup2(write, number)
            os.close(write)
        else:
            opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY)
            os.dup2(opened, number)
            os.close(opened)
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "r" if number == 0 else "w"
        stream = None if request["streams"][number] == "closed" else open(number, mode, encoding=encoding)  # noqa: SIM115, PTH123
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if request["room"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["room"],) * 2)
    sys.argv = ["score-edge", *request["arguments"]]


def run(request: dict) -> None:
    """In the fork; does not return."""
    code = 1
    try:
        become(request)
        from score_edge.cli import main

        main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
    finally:
        os._exit(code)


for line in io.TextIOWrapper(os.fdopen(os.dup(0), "rb"), encoding="utf-8"):
    child = os.fork()
    if not child:
        run(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
