"""What a request and an answer look like, for who writes a client: the kinds that are checked, and that OpenAPI describes."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator

Text = Annotated[StrictStr, Field(examples=["Two men are talking."])]
Phrase = Annotated[StrictStr, Field(min_length=1)]


class Form(BaseModel):
    """Fields that are not known are refused: most are misspelled."""

    model_config = ConfigDict(extra="forbid")


class TranslateRequest(Form):
    """What `POST /v1/translate` is asked."""

    source: Text | list[StrictStr] = Field(description="a sentence, or several; each is answered by itself")
    run: StrictStr = Field("", description="the model's name, where several are served; the first, where it is empty")
    id: Any = Field(None, description="given back with each translation as it is")
    features: StrictStr | list[StrictStr] = Field(
        "", description="of models with features: a bundle such as N;DAT;PL, or a list of features"
    )
    prefix: StrictStr = Field("", description="what the translation begins with")

    @field_validator("id")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError("NaN and infinity are no numbers of JSON") from None
        return value

    include: list[Phrase] = Field([], description="phrases that it must contain")
    exclude: list[Phrase] = Field([], description="phrases that it must not contain, whatever their case")
    seed: Annotated[StrictInt, Field(ge=0, lt=2**31)] | None = Field(None, description="of sampling, where the server samples")
    n_best: StrictInt = Field(1, ge=1, description="how many different translations")
    attention: StrictBool = Field(False, description="where each token looked")
    alternatives: StrictInt = Field(0, ge=0, description="how many tokens at each place, with their probabilities")
    beam: StrictBool = Field(False, description="the live hypotheses after each step of the search")


class Hypothesis(Form):
    """One translation of several."""

    text: str
    score: float = Field(description="what translations are sorted by")
    logp: float = Field(description="natural log of the probability of the tokens")
    reason: str = Field(description="why it ends: end, limit, impossible or blank")
    tokens: list[str] = Field([], description="as the vocabulary writes them; the end mark is the last where the reason is end")
    token_logp: list[float] = Field([], description="of each token")
    alignment: list[int] = Field([], description="of each token the source token that it looked at most")
    unmet: list[str] = Field([], description="of what was asked for, what could not be had")


class Alternative(Form):
    """A token that could stand at a place."""

    token: str
    probability: float
    prefix: str = Field(description="the translation up to and with it: as a prefix, it is chosen")


class Branch(Form):
    """A live hypothesis after a step."""

    parent: int = Field(description="its place in the step before")
    token: str
    logp: float
    text: str
    kept: bool = Field(description="whether it became the translation")


class Translation(Hypothesis):
    """The answer to a sentence: what `flax-s2s decode --form jsonl` says of it, and what was asked for."""

    id: Any = None
    source: str
    features: str = ""
    abstained: bool = Field(description="the model is not sure enough: the text is a placeholder")
    flags: list[str] = Field(description="what looks wrong: empty, repetition, copied, length, unknown, unmet")
    confidence: float = Field(description="the geometric mean of the tokens' probabilities")
    others: list[Hypothesis]
    spans: list[tuple[int, int]] = Field(description="which characters (code points) of the text each token wrote")
    source_tokens: list[str] = []
    source_spans: list[tuple[int, int]] = []
    attention: list[list[float]] = Field([], description="a row for each token, a column for each source token")
    copied: list[float] = Field([], description="of each token how much of its probability copying has")
    token_confidence: list[float] = Field([], description="of each token the probability, calibrated where the model was")
    alternatives: list[list[Alternative]] = []
    beam: list[list[Branch]] = []


class Translations(Form):
    """What `POST /v1/translate` answers."""

    translations: list[Translation]


class Problem(Form):
    """Why there is no answer."""

    error: str


class LibreRequest(BaseModel):
    """What `POST /translate` is asked, as LibreTranslate has it; other fields of its are let pass."""

    q: StrictStr | list[StrictStr] = Field(description="a text, or several")
    source: StrictStr = Field("auto", description="language of the text; auto: the model's")
    target: StrictStr = Field("", description="language of the translation; empty: the model's")
    format: StrictStr = Field("text", description="text alone")
    alternatives: int = Field(0, ge=0, description="how many further translations")
    api_key: StrictStr = Field("", description="where the server has a key; a header does as well")


class LibreAnswer(Form):
    """What `POST /translate` answers."""

    translatedText: str | list[str]  # noqa: N815 LibreTranslate's name
    alternatives: list[str] | list[list[str]] = []
