"""What a manifest holds of weights, methods and files; each is checked as it is read.

An artefact comes from elsewhere: no name in it may lead out of its folder, no size may be absurd,
and a dtype is one of those that are listed.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .base import Limit, Method, Port

Dtype: TypeAlias = Literal[
    "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"
]


Fewer: TypeAlias = Annotated[str, Field(pattern=r"^(int8|int4\(group: [1-9][0-9]{0,5}\))$")]
"""How a weight is kept in few bits."""


class Record(BaseModel):
    """A part of a manifest: what it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _below(name: str) -> str:
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or str(path) != name
        or not set(name).isdisjoint("\0\\:")
    ):
        raise ValueError(f"{name[:80]!r} is no name of a file below the folder")
    return name


FileName: TypeAlias = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_below)]
"""A file below a folder, with `/` between the parts of its name."""
Size: TypeAlias = Annotated[int, Field(ge=0, le=2**40)]
"""Of one dimension."""
Sizes: TypeAlias = Annotated[tuple[Size, ...], Field(max_length=8)]
Bytes: TypeAlias = Annotated[int, Field(ge=0, le=2**50)]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, in hexadecimal digits."""


class PortRecord(Record):
    """One input of a method, or one parameter."""

    sizes: Annotated[tuple[Size | str, ...], Field(max_length=8)]
    dtype: Dtype

    @classmethod
    def of(cls, port: Port) -> PortRecord:
        """What is written of a port."""
        return cls.model_validate(
            {"sizes": port.sizes, "dtype": str(port.dtype).removeprefix("torch.")}
        )

    def port(self) -> Port:
        """The port again."""
        return Port(self.sizes, getattr(torch, self.dtype))


class MethodRecord(Record):
    """The outside of a method: compiled code takes its parameters, then its inputs, in order."""

    inputs: dict[str, PortRecord]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]
    updated: tuple[str, ...]
    """Inputs that are updated in place."""
    program: FileName
    """The file of the portable program."""
    code: FileName
    """The file of the compiled code."""

    @classmethod
    def of(cls, method: Method, program: str, code: str) -> MethodRecord:
        """What is written of a method."""
        inputs = {name: PortRecord.of(port) for name, port in method.inputs.items()}
        return cls(
            inputs=inputs,
            outputs=method.outputs,
            parameters=method.parameters,
            updated=tuple(method.caches),
            program=program,
            code=code,
        )

    def method(self, name: str) -> Method:
        """The method again."""
        inputs = {feed: record.port() for feed, record in self.inputs.items()}
        return Method(name, inputs, self.outputs, self.parameters)


class LimitRecord(Record):
    """The range of a named size."""

    low: Size
    high: Size
    multiple: Annotated[int, Field(ge=1, le=2**40)]

    @classmethod
    def of(cls, limit: Limit) -> LimitRecord:
        """What is written of a limit."""
        return cls(low=limit.low, high=limit.high, multiple=limit.multiple)

    def limit(self) -> Limit:
        """The limit again."""
        return Limit(self.low, self.high, self.multiple)


class Content(Record):
    """What is in a file, by its size and digest."""

    sha256: Digest
    size: Bytes


class FileRecord(Content):
    """One file of an artefact: its content, and what is known of it."""

    state: Literal["stored", "built", "executed"]
    """Stored as it came; built, and never run; or executed and compared."""
    device: str | None = None
    against: Literal["eager", "program"] | None = None
    """What it was compared with: the recipe's own modules, or the portable programs inside."""
    errors: dict[str, float] = {}
    """For each method executed, the largest difference from that, as a share of its scale."""


class FormRecord(Record):
    """How a tensor of a file holds parameters; as a recipe's map of weights says it.

    `joined` holds several, one below another, in `groups` of an equal share of each; `interleaved`
    holds one of `parts` equal parts, whose rows stand in `groups`.
    """

    kind: Literal["same", "transposed", "squeezed", "joined", "interleaved"] = "same"
    parts: Annotated[int, Field(ge=1, le=2**20)] = 1
    groups: Annotated[int, Field(ge=1, le=2**20)] = 1


class Binding(Record):
    """A tensor in a file, and the parameters that it holds."""

    tensor: str
    shape: Sizes
    holds: Annotated[dict[str, Sizes], Field(min_length=1)]
    """Parameter -> its shape, in the order in which the tensor holds them."""
    form: FormRecord = FormRecord()
    file: FileName | None = None
    """Where it lies: below the artefact, or below the source of linked weights; None before there
    are any."""


class Repository(Record):
    """A folder of published files, and what their names get in front."""

    folder: FileName
    under: str


class WeightsRecord(Record):
    """Where the parameters lie.

    "inside": in files of the artefact. "linked": in the user's own files, which must still be the
    ones that the artefact was made with. "none": nowhere yet; `run --weights` says where.
    """

    kind: Literal["inside", "linked", "none"]
    bindings: tuple[Binding, ...] = ()
    """Of "none", all tensors that such weights are published as."""
    source: str | None = None
    """Linked: the file or folder, as it was named."""
    files: dict[FileName, Content] = {}
    """Linked: the user's files below it."""
    repositories: tuple[Repository, ...] = ()
    """None: the folders that weights may come in, where they were published apart."""
    ignored: tuple[str, ...] = ()
    """None: patterns of published tensors that have no place in the model."""
