"""What a stage may minimise beside the next token."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .kinds import CallModel, Model, Name, Positive, Share
from .parts import Taken
from .reading import Calls, Choice, OneOrMore


class RegionWords(Model):
    """Matches pooled features of a region with the embedding of its words, against the batch's."""

    type: Literal["RegionWords"] = "RegionWords"
    regions: Name
    """The part whose rows are pooled inside each box."""
    words: Name
    """The embedding whose rows are averaged over the words."""
    temperature: Positive


class Contrastive(Model):
    """Tells the pictures and texts of a batch apart by one another (Radford et al., 2021).

    With several `image` parts, the losses of each are summed. Texts without content are answers
    that others may give, and are not scored.
    """

    type: Literal["Contrastive"] = "Contrastive"
    image: Annotated[tuple[Taken, ...], OneOrMore()] = Field(min_length=1)
    """The parts that make one vector of each picture."""
    text: Taken
    """The part that makes one vector of each text."""
    scale: Name
    """The part that is the factor of the similarities."""
    layout: Name
    """How a text is written."""
    smoothing: Share = 0.0
    """The share of the target that is spread over all answers."""
    right: Annotated[Literal["own", "picture"], Choice()] = "own"
    """Which texts are right for a picture: its own, or those of any sample with that picture."""
    weight: Positive = 1.0


class Uniform(CallModel):
    """The text of any other picture of the batch, for half of the pictures or for `all` of them.

    For `half`, the others are shown with their own text; for all, each is shown with both.
    """

    call: Literal["uniform"] = "uniform"
    positional: ClassVar[tuple[str, ...]] = ("share",)
    share: Annotated[Literal["half", "all"], Choice()] = "all"


class Hard(CallModel):
    """Another text for each picture and another picture for each text, the likelier the more alike.

    They are as alike as the contrastive objective `by` finds them; each is shown with its own too.
    """

    call: Literal["hard"] = "hard"
    positional: ClassVar[tuple[str, ...]] = ("by",)
    by: Name


class Matching(Model):
    """Asks whether a picture and a text belong together: yes is 1, no is 0."""

    type: Literal["Matching"] = "Matching"
    scores: Taken
    """The part that makes two scores of each picture with a text."""
    layout: Name
    """How a text is written."""
    negatives: Annotated[Uniform | Hard, Calls()] = Uniform()
    weight: Positive = 1.0


class Captioning(Model):
    """The next token of texts that go on behind the queries of a `QueryDecoder`."""

    type: Literal["Captioning"] = "Captioning"
    text: Taken
    """The text of a decoder with queries: `qllama.caption`."""
    layout: Name
    """How a text is written, and what of it is scored."""
    weight: Positive = 1.0


Objective = RegionWords | Contrastive | Matching | Captioning

OBJECTIVES: Mapping[str, type[Objective]] = {
    "RegionWords": RegionWords,
    "Contrastive": Contrastive,
    "Matching": Matching,
    "Captioning": Captioning,
}
