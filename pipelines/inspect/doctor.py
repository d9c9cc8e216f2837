"""doctor: what this machine can do, and what will be used, and why."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from pipelines.reporting import console
from pipelines.reporting.mlflow_client import tracking_uri


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report(output: Path) -> None:
    """Print the report; imports what it reports on, so that a broken installation shows here."""
    import ray
    import torch

    from models.kernels.fused import tried_kernels
    from models.speech_lm.attention.backends import available_backends, choose_backend
    from models.speech_lm.precision import precision_of, type_of

    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    rows = [["machine", f"{platform.machine()}, {os.cpu_count()} cores, {memory_gb:.0f} GB", ""]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU that torch can use"
    rows.append(["device", device, name])
    rows.append(["torch", torch.__version__, f"{torch.get_num_threads()} threads"])
    backends, precision = available_backends(device), precision_of(device)
    rows.append(["precision", precision, "by default; weights, moments and sums stay in float32"])
    chosen = choose_backend(device, dtype=type_of(precision))
    for backend, reason in backends.items():
        used = "used: " if backend == chosen else ""
        rows.append([f"attention {backend}", "yes", used + reason])
    needs = {"varlen": "needs CUDA", "flash": "needs CUDA and flash-attn", "flex": "needs CUDA"}
    rows += [[f"attention {backend}", "no", why] for backend, why in needs.items() if backend not in backends]
    rows.append(["loss", "chunked", "linear cross-entropy in chunks, plain PyTorch, on every device"])
    if device == "cuda":
        tried = tried_kernels("cuda:0")
        used = "right, and faster than torch's own: " + (", ".join(sorted(tried.faster)) or "none") if tried else ""
        rows.append(["Triton kernels", "yes" if tried else "no", used or "see the warning above"])
    else:
        rows.append(["Triton kernels", "no", "need CUDA; norms, rotation, SwiGLU have gradients of their own here"])
    for package, extra, use in (
        ("espeakng-loader", "demo", "speaks the embedded corpus"),
        ("ai-edge-litert", "lyra", "codec lyra"),
        ("transformers", "codecs", "neural codecs, encoders, tokenizer files"),
        ("snac", "codecs", "codec snac"),
        ("pocketsphinx", "align", "word times of English"),
        ("flash-attn", "flash", "attention on CUDA"),
    ):
        version = _version(package)
        rows.append(
            [package, version or "not installed", use + ("" if version else f": pip install 'hubbub[{extra}]'")]
        )
    rows.append(["ray", ray.__version__, "local, or --ray-address"])
    rows.append(["mlflow", str(_version("mlflow")), tracking_uri(output)])
    parent = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    free_gb = shutil.disk_usage(parent).free / 1e9
    writable = "writable" if os.access(parent, os.W_OK) else "NOT WRITABLE: choose another --output"
    rows.append(["storage", f"{free_gb:.0f} GB free", f"{parent}, {writable}"])
    console.table("", ["what", "here", "note"], rows)
