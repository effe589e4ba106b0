#!/usr/bin/env python3
"""Fails when a file includes what its layer may not know: server -> core -> kernels, never upward."""

import re
import sys

from includes import ROOT, includes, sources, uses_torch

# Part: the files that form it (the first row that matches counts), and the parts that it may include besides itself.
PARTS = {
    "words": (r"core/engine/(request|batch|runner|loader)\.h", "base text"),
    "runner": (r"core/engine/model_runner", "words base layers model auto_model kernels engine"),
    "engine": (r"core/engine/", "words base text"),
    "text": (r"core/text/", "base"),
    "layers": (r"core/layers/", "words base weights kernels"),
    "architecture": (r"core/models/architecture\.", "words base weights auto_model model layers kernels"),
    "models": (r"core/models/", "words base weights auto_model model layers kernels architecture"),
    "registry": (r"core/model_registry\.", "words base text auto_model engine"),
    "model": (r"core/model\.", "words base layers kernels"),
    "weights": (r"core/(checkpoint|fp8)[._]", "words base auto_model kernels"),
    "base": (r"core/(status|json|file|listing|memory|version|metrics|config|safetensors(_header)?)\.", ""),
    "auto_model": (r"core/[^/]*$", "words base weights text model layers kernels architecture runner"),
    "kernels": (r"kernels/", ""),
    "server": (r"server/", "words base text engine auto_model registry"),
}

# Foreign headers, and the only part that may include them.
FOREIGN = {
    r"(grpc|grpcpp|google/protobuf|automodeld/v1|CLI|yaml-cpp|boost/beast)/": "server",
    r"(cuda|cublas|cudnn|cuda_runtime\w*|ATen/cuda|c10/cuda)[/.]": "kernels",
}

TORCH_FREE = re.compile(r"server/(?!main\.cc)|core/(text|engine/(?!model_runner))"
                        r"|core/(auto_model|model_registry|metrics|config|status)\.h"
                        r"|tests/(engine|service|text|loading|bench)/(?!linear_bench)")
DEVICE_CODE = re.compile(r"__global__|^\s*#\s*if.*(CUDA|__NVCC__)", re.MULTILINE)


def part_of(name):
    return next((part for part, (pattern, _) in PARTS.items() if re.match(pattern, name)), None)


def breaches(name):
    part = part_of(name)
    for other in includes(name):
        target = part_of(other)
        if part and target and target != part and target not in PARTS[part][1].split():
            yield f"{part} may not include {other} ({target})"
        for pattern, owner in FOREIGN.items():
            if part and part != owner and re.match(pattern, other):
                yield f"only {owner}/ may include {other}"
    if TORCH_FREE.match(name) and uses_torch(name):
        yield "must not include libtorch, neither itself nor through a header"
    if part != "kernels" and DEVICE_CODE.search((ROOT / name).read_text()):
        yield "__global__ and device conditions belong in kernels/"


def main():
    findings = [f"{name}: {text}" for name in sources(".h", ".cc", ".cu", ".cuh") for text in breaches(name)]
    print("\n".join(findings), end="\n" if findings else "")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
