"""An artefact: a folder that answers without its recipe, checked before a byte of it is run.

    manifest.json          what it is: methods, limits, weights, the host's part, digests
    programs/METHOD.pt2    each method as a portable program without weights
    aoti/methods.pt2       machine code of all methods for one kind of processor, with
    kernels/triptych.so    those of our own kernels that it calls, or
    tensorrt/METHOD.engine an engine of each method for one kind of GPU
    weights/*.safetensors  every parameter, once; or none, where the user's own files are linked
    tokenizer/FILE         the vocabulary

What is in `aoti`, `kernels` and `tensorrt` is code, and is run: an artefact must be trusted as any
program is. The digests find damage, not malice.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..blocks.input.calls import CHUNK
from ..blocks.operators import compiled_segments
from . import native
from .base import Executable, Method
from .bindings import parameters_of
from .embedding import AnySession, session_of
from .manifest import MANIFEST, ArtefactError, Manifest
from .verification import check_fit, verify

PACKAGE = "aoti/methods.pt2"
ENGINES = "tensorrt"
PROGRAMS = "programs"
WEIGHTS = "weights"
TOKENIZER = "tokenizer"

# What compiled code calls. A kernel of torch.library.custom_op would do as well, but its first call
# imports the whole of torch's compiler: seconds, of which an answer takes a tenth.
_KERNELS = torch.library.Library("triptych", "IMPL")
_KERNELS.impl("segment_attention", compiled_segments, "CPU")


class Artefact:
    """An artefact whose files are all what its manifest says.

    `weights` is where the user's own files are, when they were linked and have moved since, or when
    the artefact was made without.
    """

    def __init__(self, folder: Path, weights: Path | None = None) -> None:
        """Read and verify; ArtefactError names the file that is missing, changed or foreign."""
        self.folder = folder
        self.weights = weights
        self.manifest = Manifest.read(folder / MANIFEST)
        verify(folder, self.manifest.files)

    @cached_property
    def executable(self) -> Executable:
        """The methods; ArtefactError when the code is not for this machine or this torch, or its
        weights are not there or not the right ones."""
        check_fit(self.folder, self.manifest)
        return opened(self.folder, self.manifest, self.weights)

    def session(self, *, chunk: int = CHUNK) -> AnySession:
        """What answers (prompts longer than `chunk` tokens fed in pieces), or makes vectors or
        features; ArtefactError when it trains a stage."""
        if self.manifest.training:
            raise ArtefactError(
                f"{self.folder} answers nothing, it trains a stage: `triptych train --artefact`"
            )
        folder = self.folder / TOKENIZER
        return session_of(self.executable, folder, self.manifest.spec, chunk=chunk)


def opened(folder: Path, manifest: Manifest, weights: Path | None = None) -> Executable:
    """The methods of an artefact that has been checked."""
    parameters = parameters_of(folder, manifest, weights)
    if manifest.backend == "aot":
        native.load_from(folder / native.LIBRARY)
        return PackageExecutable(folder, manifest, parameters)
    from .engines import EngineExecutable

    engines = {
        name: (folder / record.code).read_bytes() for name, record in manifest.methods.items()
    }
    return EngineExecutable(manifest.outsides, manifest.sizes, engines, parameters)


class PackageExecutable(Executable):
    """Methods of an AOTInductor package; one copy of the weights serves them all."""

    def __init__(self, folder: Path, manifest: Manifest, parameters: Mapping[str, Tensor]) -> None:
        self.methods = manifest.outsides
        self.limits = manifest.sizes
        self.device = torch.device("cpu")
        self._parameters = {
            name: [parameters[parameter] for parameter in method.parameters]
            for name, method in self.methods.items()
        }
        self._loaders = {
            name: torch._C._aoti.AOTIModelPackageLoader(
                str(folder / record.code), name, False, 1, -1
            )
            for name, record in manifest.methods.items()
        }

    def _run(
        self, method: Method, inputs: dict[str, Tensor], sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        given = [*self._parameters[method.name], *inputs.values()]
        outputs = self._loaders[method.name].boxed_run(given)
        return dict(zip(method.outputs, outputs, strict=True))
